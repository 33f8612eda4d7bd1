import type { PreparedFrame } from '../protocol/frame.js';
import { type Estimate, guess, scaled, sumOf, times } from './estimate.js';

/**
 * Saving and sending one device with nothing learned: a call and two frames. Measured on 2 processors: 4,000 devices of 100 bytes over
 * loopback TCP take 0.09 ms each; a vCPU of `examples/node-vmm`, whose registers are read by its own thread, 0.7 to 5 ms.
 */
const SAVE_MS = guess(0.1, 0.02, 0.3);
const SAVE_BASE_MS = guess(2.9, 0.1, 14);

/** Loading one device at the destination, likewise: 4,000 devices take 0.012 ms each, a vCPU 0.5 to 3 ms. */
export const FIRST_LOAD_MS = guess(0.012, 0.003, 0.1);
const LOAD_BASE_MS = guess(3.5, 0.1, 14);

/** What the destination takes to wake up for the devices, which its estimate of loading does not have. Milliseconds. */
const LOAD_WAKE_MS = guess(0.8, 0, 4);

/** Milliseconds to load a byte while no device has shown its rate: 4 GB/s, 16 to 0.05. */
export const FIRST_LOAD_MS_PER_BYTE = guess(1 / 4e6, 1 / 16e6, 1 / 5e4);

/**
 * The rate of the control stream divided by the rate of the page channels: the control stream is one of several streams, or shares one
 * link with them.
 */
const SEND = guess(1, 0.5, 2);

/** What is known of the devices before a pause. */
export interface DeviceOutlook {
  readonly count: number;
  /** Bytes that the devices expect to save now. */
  readonly bytes: number;
  /** The sum of `expectedSaveMs` of the devices that have it, in milliseconds, and the number of those devices. */
  readonly expectedSaveMs: number;
  readonly expecting: number;
  /**
   * The time to ask a device for state and send a small piece, measured in rounds in which devices yielded state while the guest ran.
   */
  readonly callMs?: Estimate | undefined;
}

/** The destination's estimate of loading: a part that does not depend on bytes, and a part for each byte. Milliseconds. */
export interface LoadOutlook {
  readonly fixed: Estimate;
  readonly perByte: Estimate;
}

/** The time to save all devices and send their state (`sending`) over one stream, which has `channels` page channels beside it. */
export function savingDevices(devices: DeviceOutlook, sending: Estimate, channels: number): Estimate {
  const { count, expectedSaveMs, expecting, callMs = SAVE_MS } = devices;
  if (count === 0) return guess(0.1, 0, 2);
  const told = scaled(guess(expectedSaveMs, expectedSaveMs, expectedSaveMs), guess(1, 0.5, 2.5));
  const untold = count - expecting;
  const unknown = untold === 0 ? [] : [SAVE_BASE_MS, times(callMs, untold)];
  const ends = guess(SEND.ms, SEND.lowMs, Math.max(SEND.highMs, channels));
  // The frames of every device count, also of a device that has said how long it takes to save.
  const frames = times(callMs, expecting);
  return sumOf([told, ...unknown, frames, scaled(sending, ends)]);
}

/** The time to load `bytes` of state into `count` devices: the destination's estimate, or a guess without one. */
export function loadingDevices(count: number, bytes: number, told: LoadOutlook | undefined): Estimate {
  if (told !== undefined) return sumOf([told.fixed, times(told.perByte, bytes), LOAD_WAKE_MS]);
  if (count === 0) return guess(0.2, 0, 2);
  return sumOf([LOAD_BASE_MS, times(FIRST_LOAD_MS, count), times(FIRST_LOAD_MS_PER_BYTE, bytes)]);
}

/** A day, in milliseconds: no destination takes that long to load or to start a guest. */
const MOST_MS = 86_400_000;

/**
 * What `prepared` says of loading and of starting the guest; `undefined` for what the destination does not know, and for a value that
 * is no possible time.
 */
export function destinationOutlook({
  load = [],
  resume = [],
}: Pick<PreparedFrame, 'load' | 'resume'>): readonly [load: LoadOutlook | undefined, resume: Estimate | undefined] {
  const estimate = ([ms = 0, low = 0, high = 0]: readonly number[]) => guess(ms, low, high);
  const absurd = (values: readonly number[]) => values.some((ms) => !(ms >= 0 && ms <= MOST_MS));
  const loading =
    load.length < 6 || absurd(load)
      ? undefined
      : { fixed: estimate(load), perByte: times(estimate(load.slice(3)), 1 / 2 ** 20) };
  return [loading, resume.length < 3 || absurd(resume) ? undefined : estimate(resume)];
}

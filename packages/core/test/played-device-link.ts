import type { Frame, MigratableDevice } from '@godwit/core';
import { engineParts } from '@godwit/core/testing';

const { DeviceSender } = engineParts;

/** Bytes that the destination takes in one frame, where a test does not say. */
export const PIECE = 4;

type DeviceFrame = Extract<Frame, { type: 'device' }>;

/** A device whose chunks the test hands out. */
export class ScriptedDevice implements MigratableDevice {
  readonly version = 1;
  readonly id: string;
  /** What the next `precopy` yields, and the next `save`. */
  readonly chunks: {
    precopy: Iterable<Uint8Array> | AsyncIterable<Uint8Array>;
    save: Iterable<Uint8Array> | AsyncIterable<Uint8Array>;
  };
  calls: string[] = [];

  constructor(id: string) {
    this.id = id;
    this.chunks = { precopy: [], save: [] };
  }

  async *precopy(): AsyncGenerator<Uint8Array> {
    this.calls.push('precopy');
    yield* this.chunks.precopy;
  }

  async *save(): AsyncGenerator<Uint8Array> {
    this.calls.push('save');
    yield* this.chunks.save;
  }

  async load(): Promise<void> {}
}

export interface PlayedLink {
  readonly link: engineParts.DeviceLink & {
    pings: number;
    loadsEarly?: boolean;
    /** Called before a frame counts as written; may throw or wait. */
    onWrite: (frame: DeviceFrame) => void | Promise<void>;
  };
  readonly lines: string[];
  cut(reason: Error): void;
}

/** A connection that writes nothing and remembers everything, as lines: `device 0 piece 2 attempt 0: 1 2 3`. */
export function deviceLink(): PlayedLink {
  const end = new AbortController();
  const lines: string[] = [];
  const link: PlayedLink['link'] = {
    signal: end.signal,
    pings: 0,
    onWrite: () => {},
    async write(frame: Frame, payload: readonly Uint8Array[] = []) {
      const { device, sequence, attempt, last } = frame as DeviceFrame;
      const bytes = payload.flatMap((part) => [...part]).join(' ');
      await link.onWrite(frame as DeviceFrame);
      lines.push(`device ${device} piece ${sequence} attempt ${attempt}: ${last ? 'last' : bytes}`);
    },
    async ping() {
      link.pings++;
      return 1;
    },
  };
  return { link, lines, cut: (reason: Error) => end.abort(reason) };
}

/** A sender of these devices over a link that is new. */
export function senderOf(devices: readonly MigratableDevice[], maximumDeviceState = 1000, maximumPayload = PIECE) {
  const sender = new DeviceSender(devices);
  const use = () => {
    const played = deviceLink();
    sender.use(played.link, maximumPayload, maximumDeviceState);
    return played;
  };
  return { sender, use, ...use() };
}

export const bytes = (...values: number[]) => Uint8Array.from(values);

/** Lets everything run that can without waiting. */
export async function turn(): Promise<void> {
  await new Promise<void>((resolve) => setImmediate(resolve));
}

/**
 * The memory that the main thread and the vCPU threads of a machine share, besides the guest's RAM. A thread in KVM_RUN cannot read
 * messages, so that the main thread gives it orders here.
 *
 * `words` (32-bit, with Atomics):
 *
 * | word      | what                                                                     | written by             |
 * |-----------|--------------------------------------------------------------------------|------------------------|
 * | 1         | console lock: 1 while a thread appends                                   | vCPUs                  |
 * | 2, 3      | console: bytes written, bytes taken, both modulo 2^32                    | vCPUs, main            |
 * | 4         | console: 1 when main has been told that there is text                    | vCPUs set, main clears |
 * | 5         | software guest: 0 = run, else stop (it has no command words)             | main                   |
 * | 8         | power management: event enable register, see power-port.ts               | vCPUs                  |
 * | 9         | the number of the clock's byte that is accessed, see cmos-clock.ts       | vCPUs                  |
 * | 16 + 8*i  | vCPU i: command and its sequence number, see below                       | main                   |
 * | 17 + 8*i  | vCPU i: kernel thread id, 0 before the thread has started                | vCPU i                 |
 * | 18 + 8*i  | vCPU i: pause clock as latched by its last read, low half                | vCPU i                 |
 * | 19 + 8*i  | the same, high half                                                      | vCPU i                 |
 * | 20 + 8*i  | vCPU i: throttle, in millionths of the time in which it does not run     | main                   |
 * | 21 + 8*i  | vCPU i: number of changes of its command and its throttle                | main                   |
 * | 22 + 8*i  | vCPU i: microseconds for which it was held back, modulo 2^32             | vCPU i                 |
 * | 23 + 8*i  | vCPU i: the longest hold of its throttle, in microseconds                | main                   |
 *
 * `serial` and `serialInput`: the serial port, see serial-words.ts. `virtio`: the virtio devices, see virtio-words.ts.
 * `cmos`, `cmosAheadMs[0]`: the bytes of the PC's clock, and the milliseconds that it is ahead of the host's.
 *
 * A software guest is one thread, which uses the throttle of vCPU 0.
 *
 * `guestClock[0]`: microseconds to add to CLOCK_MONOTONIC to get guest time; changed only while all vCPUs are parked.
 *
 * A command is `sequence << 2 | what`. The sequence number makes every order a new value: a thread acknowledges the order that it has
 * obeyed, so that the answer to an old pause is never taken for the answer to a new one.
 */
import { SERIAL_INPUT_BYTES, SERIAL_WORDS } from '../devices/serial-words.js';
import { virtioWordCount } from '../virtio/virtio-words.js';
import type { ThrottleSlices } from './throttle.js';

/** What a machine can have; the bundled guest has fewer. The board has room for all of them: 4 KiB. */
export const MAX_VCPUS = 64;

export const BoardWord = {
  consoleLock: 1,
  consoleWritten: 2,
  consoleTaken: 3,
  consoleAnnounced: 4,
  softwareRequest: 5,
  powerEvents: 8,
  cmosNumber: 9,
} as const;

const FIRST_VCPU_WORD = 16;
const VCPU_WORDS = 8;
const LONGEST_WORD = 2 ** 31 - 1;
const WORDS = FIRST_VCPU_WORD + MAX_VCPUS * VCPU_WORDS;
/** Size of the console ring, a power of two: more than a guest prints while the main thread is busy with a migration. */
const CONSOLE_BYTES = 2 ** 16;
const SERIAL_AT = WORDS * 4 + 8 + CONSOLE_BYTES;
const VIRTIO_AT = SERIAL_AT + SERIAL_WORDS * 4 + SERIAL_INPUT_BYTES;
const VIRTIO_WORDS = virtioWordCount(MAX_VCPUS);
/** At a multiple of 8, for the number of 64 bits that comes first. */
const CMOS_AT = Math.ceil((VIRTIO_AT + VIRTIO_WORDS * 4) / 8) * 8;
/** Bytes of a PC's clock: see cmos-clock.ts. */
export const CMOS_BYTES = 128;

/** `rehearse`: leave the guest and answer, as for `park`, then run. */
export const VcpuCommand = { park: 0, run: 1, end: 2, rehearse: 3 } as const;
export type VcpuCommandName = keyof typeof VcpuCommand;

export class SharedBoard {
  readonly buffer: SharedArrayBuffer;
  readonly words: Int32Array<SharedArrayBuffer>;
  readonly guestClock: Float64Array<SharedArrayBuffer>;
  readonly console: Uint8Array<SharedArrayBuffer>;
  readonly serial: Int32Array<SharedArrayBuffer>;
  readonly serialInput: Uint8Array<SharedArrayBuffer>;
  readonly virtio: Int32Array<SharedArrayBuffer>;
  readonly cmosAheadMs: Float64Array<SharedArrayBuffer>;
  readonly cmos: Uint8Array<SharedArrayBuffer>;

  /** @param buffer the buffer of the board to join; default: a new board */
  constructor(buffer = new SharedArrayBuffer(CMOS_AT + 8 + CMOS_BYTES)) {
    this.buffer = buffer;
    this.words = new Int32Array(buffer, 0, WORDS);
    this.guestClock = new Float64Array(buffer, WORDS * 4, 1);
    this.console = new Uint8Array(buffer, WORDS * 4 + 8, CONSOLE_BYTES);
    this.serial = new Int32Array(buffer, SERIAL_AT, SERIAL_WORDS);
    this.serialInput = new Uint8Array(buffer, SERIAL_AT + SERIAL_WORDS * 4, SERIAL_INPUT_BYTES);
    this.virtio = new Int32Array(buffer, VIRTIO_AT, VIRTIO_WORDS);
    this.cmosAheadMs = new Float64Array(buffer, CMOS_AT, 1);
    this.cmos = new Uint8Array(buffer, CMOS_AT + 8, CMOS_BYTES);
  }

  commandWord(vcpu: number): number {
    return FIRST_VCPU_WORD + vcpu * VCPU_WORDS;
  }

  threadIdWord(vcpu: number): number {
    return this.commandWord(vcpu) + 1;
  }

  /** The word of the low half; the high half is the next word. */
  clockLatchWord(vcpu: number): number {
    return this.commandWord(vcpu) + 2;
  }

  throttleWord(vcpu: number): number {
    return this.commandWord(vcpu) + 4;
  }

  /**
   * The word on which a vCPU waits while it is held back or its guest sleeps. It is read before the command and the throttle, so that
   * no change of either is missed between the reads and the wait.
   */
  changesWord(vcpu: number): number {
    return this.commandWord(vcpu) + 5;
  }

  /** The time for which a vCPU was held back so far, in milliseconds, modulo 2^32 microseconds. */
  heldMs(vcpu: number): number {
    return (Atomics.load(this.words, this.#heldWord(vcpu)) >>> 0) / 1000;
  }

  addHeldMs(vcpu: number, ms: number): void {
    Atomics.add(this.words, this.#heldWord(vcpu), Math.round(ms * 1000));
  }

  /** Wakes a vCPU's thread, after a change, from any wait. */
  announceChange(vcpu: number): void {
    const word = this.changesWord(vcpu);
    Atomics.add(this.words, word, 1);
    Atomics.notify(this.words, word);
  }

  /**
   * Stores a vCPU's throttle.
   *
   * @param fraction of the time in which it does not run
   * @param longestMs the longest hold, in milliseconds
   * @returns whether anything has changed
   */
  setThrottle(vcpu: number, fraction: number, longestMs: number): boolean {
    const before = Atomics.exchange(this.words, this.throttleWord(vcpu), Math.round(fraction * 1e6));
    const longest = Math.min(Math.round(longestMs * 1000), LONGEST_WORD);
    const bound = Atomics.exchange(this.words, this.#longestHoldWord(vcpu), longest);
    return before !== Math.round(fraction * 1e6) || bound !== longest;
  }

  /** Hands the throttle of a vCPU to its slices. */
  readThrottle(vcpu: number, slices: ThrottleSlices): void {
    const millionths = Atomics.load(this.words, this.throttleWord(vcpu));
    slices.set(millionths / 1e6, Atomics.load(this.words, this.#longestHoldWord(vcpu)) / 1000);
  }

  #heldWord(vcpu: number): number {
    return this.commandWord(vcpu) + 6;
  }

  #longestHoldWord(vcpu: number): number {
    return this.commandWord(vcpu) + 7;
  }
}

export function commandOf(order: number): number {
  return order & 3;
}

/** The next order after `order`, with another sequence number. */
export function nextOrder(order: number, command: VcpuCommandName): number {
  return ((order & ~3) + 4) | VcpuCommand[command] | 0;
}

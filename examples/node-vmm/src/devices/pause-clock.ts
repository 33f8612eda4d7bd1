import type { MigratableDevice } from '@godwit/core';
import { requireVersion, StateReader, StateWriter } from '../state/state-sections.js';
import type { SharedBoard } from '../vcpu/shared-board.js';
import { monotonicMicroseconds } from './monotonic-clock.js';
import type { PortDevice } from './port-device.js';

const TWO_TO_32 = 2 ** 32;

/**
 * The pause clock: microseconds since the guest was started, counting on while it is paused and while it is in flight
 * between two hosts. A guest that reads it before and after knows how long it was away.
 *
 * Reading 4 bytes at the first port latches the time, per vCPU, and gives its low half; the next port, 4 higher, gives
 * the high half of what was latched.
 */
export class PauseClock implements PortDevice {
  readonly firstPort: number;
  readonly portCount = 8;
  readonly #board: SharedBoard;
  readonly #latch: number;
  readonly #now = monotonicMicroseconds();

  constructor(board: SharedBoard, vcpu: number, firstPort: number) {
    this.#board = board;
    this.#latch = board.clockLatchWord(vcpu);
    this.firstPort = firstPort;
  }

  read(port: number): number {
    const { words, guestClock } = this.#board;
    if (port - this.firstPort === 4) return (words[this.#latch + 1] as number) >>> 0;
    if (port !== this.firstPort) return 0xffff_ffff;
    const time = Math.max(0, Math.floor(this.#now() + (guestClock[0] as number)));
    words[this.#latch] = (time % TWO_TO_32) | 0;
    words[this.#latch + 1] = Math.floor(time / TWO_TO_32);
    return (words[this.#latch] as number) >>> 0;
  }

  write(): void {
    // A clock that the guest cannot set.
  }
}

/**
 * The pause clock as a device that moves, and the machine's own view of it.
 *
 * The state is guest time together with CLOCK_REALTIME at the same moment; the destination adds what has passed since
 * by its own CLOCK_REALTIME. The two hosts' clocks should agree (NTP); where the destination's is behind, the time away
 * counts as zero, so that guest time never goes back.
 */
export class PauseClockState implements MigratableDevice {
  readonly id = 'pause-clock';
  readonly version = 1;
  readonly #board: SharedBoard;
  readonly #vcpus: number;
  readonly #now = monotonicMicroseconds();

  constructor(board: SharedBoard, vcpus: number) {
    this.#board = board;
    this.#vcpus = vcpus;
    board.guestClock[0] = -this.#now();
  }

  /** Guest time now, in microseconds. */
  get microseconds(): number {
    return Math.max(0, Math.floor(this.#now() + (this.#board.guestClock[0] as number)));
  }

  async *save(): AsyncIterable<Uint8Array> {
    // In this order, here and in load(): what passes between two clocks is added to guest time, never taken from it.
    const realtime = Math.floor(Date.now() * 1000);
    const time = BigUint64Array.of(BigInt(this.microseconds), BigInt(realtime));
    const latches = new Uint32Array(this.#vcpus * 2);
    for (let i = 0; i < this.#vcpus; i++) {
      const word = this.#board.clockLatchWord(i);
      latches[i * 2] = this.#board.words[word] as number;
      latches[i * 2 + 1] = this.#board.words[word + 1] as number;
    }
    yield new StateWriter()
      .section('TIME', new Uint8Array(time.buffer))
      .section('LTCH', new Uint8Array(latches.buffer))
      .finish();
  }

  async load(state: AsyncIterable<Uint8Array>, version: number): Promise<void> {
    requireVersion(this.id, version, this.version);
    const reader = await StateReader.read(this.id, state, ['TIME', 'LTCH']);
    const time = new DataView(reader.required('TIME', 16).buffer);
    const latches = new DataView(reader.required('LTCH', this.#vcpus * 8).buffer);
    const now = this.#now();
    const away = Math.max(0, Date.now() * 1000 - Number(time.getBigUint64(8, true)));
    this.#board.guestClock[0] = Number(time.getBigUint64(0, true)) + away - now;
    for (let i = 0; i < this.#vcpus; i++) {
      const word = this.#board.clockLatchWord(i);
      this.#board.words[word] = latches.getInt32(i * 8, true);
      this.#board.words[word + 1] = latches.getInt32(i * 8 + 4, true);
    }
  }

  /** Everything is on the board. */
  loadWrites(): readonly [] {
    return [];
  }
}

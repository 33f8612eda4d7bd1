import type { MigratableDevice } from '@godwit/core';
import { requireVersion, StateReader, StateWriter, stateBytesOf } from '../state/state-sections.js';
import type { SharedBoard } from '../vcpu/shared-board.js';
import { monotonicMicroseconds } from './monotonic-clock.js';
import type { PortDevice } from './port-device.js';

const TWO_TO_32 = 2 ** 32;

/**
 * The pause clock: microseconds since the guest was started. It counts while the guest is paused and while it moves between two hosts,
 * so that the guest can measure its own downtime.
 *
 * Reading 4 bytes at the first port latches the time for this vCPU and returns its low half; the port 4 higher returns the high half of
 * the latched time.
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
    // The guest cannot set the clock.
  }
}

/**
 * The state of the pause clock as a device, and its reading for the machine.
 *
 * The state is the guest time and CLOCK_REALTIME at the same moment; the destination adds the time since then by its own CLOCK_REALTIME.
 * The clocks of the two hosts should agree (NTP). If the destination's is behind, the time in between counts as zero, so that guest
 * time never goes back.
 */
export class PauseClockState implements MigratableDevice {
  readonly id = 'pause-clock';
  readonly version = 1;
  readonly maximumStateBytes: number;
  readonly #board: SharedBoard;
  readonly #vcpus: number;
  readonly #now = monotonicMicroseconds();

  constructor(board: SharedBoard, vcpus: number) {
    this.#board = board;
    this.#vcpus = vcpus;
    this.maximumStateBytes = stateBytesOf(2 * 8, vcpus * 8);
    board.guestClock[0] = -this.#now();
  }

  /** Guest time now, in microseconds. */
  get microseconds(): number {
    return Math.max(0, Math.floor(this.#now() + (this.#board.guestClock[0] as number)));
  }

  async *save(): AsyncIterable<Uint8Array> {
    // The order here and in load() is such that the time between reading the two clocks is added to guest time, never subtracted.
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

  /** Returns no pages: the state is on the `SharedBoard`. */
  loadWrites(): readonly [] {
    return [];
  }
}

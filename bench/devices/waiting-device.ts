import { setTimeout as sleep } from 'node:timers/promises';
import type { MigratableDevice } from '@godwit/core';

/** The state of a device, and the times of its hardware. */
export interface DeviceShape {
  /** All bytes of state. */
  readonly bytes: number;
  /** The part of `bytes` that the device yields while the guest runs. */
  readonly precopyBytes?: number;
  /** Milliseconds in which its hardware saves, and loads, before the first byte and after the last. */
  readonly saveMs?: number;
  readonly loadMs?: number;
  /** Bytes per second that its `load` takes; by default as fast as they come. */
  readonly loadRate?: number;
  readonly parallel?: boolean;
}

const PIECE_BYTES = 2 ** 20;

/** A device that waits like hardware, without using this machine's processors. Its `load` checks every byte. */
export class WaitingDevice implements MigratableDevice {
  readonly id: string;
  readonly version = 1;
  readonly parallel: boolean;
  readonly #shape: DeviceShape;
  #yielded = 0;

  constructor(id: string, shape: DeviceShape) {
    this.id = id;
    this.#shape = shape;
    this.parallel = shape.parallel ?? false;
    // The method is set only where it is used: the engine checks whether a device has `precopy`.
    if (shape.precopyBytes !== undefined) this.precopy = () => this.#pieces(shape.precopyBytes as number);
  }

  precopy?: () => AsyncIterable<Uint8Array>;

  stateBytes(): number {
    return this.#shape.bytes - this.#yielded;
  }

  expectedSaveMs(): number {
    return this.#shape.saveMs ?? 0;
  }

  expectedLoadMs(bytes: number): number {
    return (this.#shape.loadMs ?? 0) + (bytes / (this.#shape.loadRate ?? Number.POSITIVE_INFINITY)) * 1000;
  }

  async *save(): AsyncGenerator<Uint8Array> {
    if (this.#shape.saveMs !== undefined) await sleep(this.#shape.saveMs);
    yield* this.#pieces(this.#shape.bytes);
  }

  async load(state: AsyncIterable<Uint8Array>): Promise<void> {
    const { bytes, loadRate, loadMs } = this.#shape;
    const start = performance.now();
    let loaded = 0;
    for await (const piece of state) {
      if (Buffer.compare(piece, stateAt(loaded, piece.length)) !== 0) {
        throw new Error(`bytes ${loaded} to ${loaded + piece.length} of the state are not those that were saved`);
      }
      loaded += piece.length;
      if (loadRate === undefined) continue;
      const early = start + (loaded / loadRate) * 1000 - performance.now();
      if (early > 0) await sleep(early);
    }
    if (loaded !== bytes) throw new Error(`${bytes} bytes of state were saved, ${loaded} have come`);
    if (loadMs !== undefined) await sleep(loadMs);
  }

  loadWrites(): readonly [] {
    return [];
  }

  /** Yields the state from the last yielded byte up to byte `end`. */
  async *#pieces(end: number): AsyncGenerator<Uint8Array> {
    while (this.#yielded < end) {
      const length = Math.min(PIECE_BYTES, end - this.#yielded);
      yield stateAt(this.#yielded, length);
      this.#yielded += length;
    }
  }
}

/** The state repeats after this many bytes, a number that divides no piece. */
const PERIOD = 65_521;
const STATE = Uint8Array.from({ length: PIECE_BYTES + PERIOD }, (_, at) => (at % PERIOD) ^ ((at % PERIOD) >> 8));

function stateAt(offset: number, length: number): Uint8Array {
  return STATE.subarray(offset % PERIOD, (offset % PERIOD) + length);
}

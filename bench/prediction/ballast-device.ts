import { setTimeout as sleep } from 'node:timers/promises';
import type { MigratableDevice } from '@godwit/core';

const PIECE_BYTES = 2 ** 20;

/**
 * A device with a given size of state and a given time to load it, which it announces (`expectedLoadMs`), like firmware that
 * knows its own times.
 */
export class BallastDevice implements MigratableDevice {
  readonly id = 'ballast';
  readonly version = 1;
  readonly #bytes: number;
  readonly #loadMs: number;

  constructor(bytes: number, loadMs: number) {
    this.#bytes = bytes;
    this.#loadMs = loadMs;
  }

  stateBytes(): number {
    return this.#bytes;
  }

  expectedLoadMs(): number {
    return this.#loadMs;
  }

  async *save(): AsyncGenerator<Uint8Array> {
    const piece = new Uint8Array(PIECE_BYTES).fill(1);
    for (let left = this.#bytes; left > 0; left -= PIECE_BYTES) yield piece.subarray(0, Math.min(left, PIECE_BYTES));
  }

  async load(state: AsyncIterable<Uint8Array>): Promise<void> {
    let bytes = 0;
    for await (const piece of state) bytes += piece.length;
    if (bytes !== this.#bytes) throw new Error(`${this.#bytes} bytes of state were saved, ${bytes} have come`);
    if (this.#loadMs > 0) await sleep(this.#loadMs);
  }

  loadWrites(): readonly [] {
    return [];
  }
}

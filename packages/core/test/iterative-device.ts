import type { MigratableDevice } from '@godwit/core';

/**
 * A device whose state moves while the guest runs: three pieces a round, and a last one. Each piece is a number that never comes
 * again, so that one which is lost, sent twice, or of an attempt that was given up shows.
 */
export class IterativeDevice implements MigratableDevice {
  readonly id = 'vfio';
  readonly version = 1;
  readonly backVoids: 'stop-state' | 'everything';
  /** What `load` was given last. */
  loaded: number[] = [];
  saves = 0;
  restarts = 0;
  resets = 0;
  #precopied: number[] = [];
  #saved: number[] = [];
  #next = 0;

  constructor(backVoids: 'stop-state' | 'everything' = 'stop-state') {
    this.backVoids = backVoids;
  }

  /** What the destination is to have: everything since the last restart, and then what the last `save` has yielded. */
  get yielded(): readonly number[] {
    return [...this.#precopied, ...this.#saved];
  }

  async *precopy(): AsyncGenerator<Uint8Array> {
    for (let i = 0; i < 3; i++) {
      this.#precopied.push(++this.#next);
      yield Uint8Array.of(this.#next);
    }
  }

  async *save(): AsyncGenerator<Uint8Array> {
    this.saves++;
    this.#saved = [++this.#next];
    yield Uint8Array.of(this.#next);
  }

  async restart(): Promise<void> {
    this.restarts++;
    this.#precopied = [];
  }

  async load(state: AsyncIterable<Uint8Array>): Promise<void> {
    this.loaded = [];
    for await (const chunk of state) this.loaded.push(...chunk);
  }

  async reset(): Promise<void> {
    this.resets++;
  }

  /** Its `load` writes no guest memory. */
  loadWrites(): [] {
    return [];
  }
}

import { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import type { DirtyTracker } from './dirty-tracker.js';

/**
 * Reports the writes that are marked: a device model in JavaScript calls `mark` when it writes guest memory. `mark` counts only between
 * `start` and `stop`; outside a migration it costs one comparison.
 */
export class SoftwareTracker implements DirtyTracker {
  readonly name: string;
  readonly blindSpots = 'every write that is not marked';
  readonly #memory: GuestMemory;
  #dirty: DirtyBitmaps | undefined;

  constructor(memory: GuestMemory, name = 'software') {
    this.#memory = memory;
    this.name = name;
  }

  /** Marks the pages of `length` bytes at `offset` of a block as written. */
  mark(blockIndex: number, offset: number, length: number): void {
    if (this.#dirty === undefined || length <= 0) return;
    const first = Math.floor(offset / this.#memory.pageSize);
    const last = Math.floor((offset + length - 1) / this.#memory.pageSize);
    this.#dirty.at(blockIndex).setRange(first, last - first + 1);
  }

  async start(): Promise<void> {
    this.#dirty = new DirtyBitmaps(this.#memory);
  }

  async harvest(into: DirtyBitmaps): Promise<void> {
    if (this.#dirty === undefined) return;
    into.or(this.#dirty);
    this.#dirty.clearAll();
  }

  async stop(): Promise<void> {
    this.#dirty = undefined;
  }
}

import { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import type { DirtyTracker } from '../tracker/dirty-tracker.js';
import type { WriteLog } from './toy-vm.js';

/**
 * A tracker with deferred re-arm, like KVM's dirty log with KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: a harvest reads the log and does not
 * clear it; `rearm` clears the bits of its range that a harvest has reported, and no others. A page that is written between a harvest
 * and its `rearm` is not reported again: if the engine read the page before it was re-armed, the write is lost.
 *
 * @example
 * const tracker = new ManualTracker(vm.memory);
 * vm.trackers = [tracker];
 * tracker.mark(0, 4096, 1); // page 1 was written
 */
export class ManualTracker implements DirtyTracker, WriteLog {
  readonly name = 'manual';
  readonly #memory: GuestMemory;
  #log: DirtyBitmaps | undefined;
  #reported: DirtyBitmaps | undefined;
  starts = 0;
  stops = 0;
  rearms = 0;

  constructor(memory: GuestMemory) {
    this.#memory = memory;
  }

  /** Notes a write of `length` bytes. */
  mark(blockIndex: number, offset: number, length: number): void {
    if (this.#log === undefined || length <= 0) return;
    const first = Math.floor(offset / this.#memory.pageSize);
    const last = Math.floor((offset + length - 1) / this.#memory.pageSize);
    this.#log.at(blockIndex).setRange(first, last - first + 1);
  }

  async start(): Promise<void> {
    this.starts++;
    this.#log = new DirtyBitmaps(this.#memory);
    this.#reported = new DirtyBitmaps(this.#memory);
  }

  async harvest(into: DirtyBitmaps): Promise<void> {
    if (this.#log === undefined || this.#reported === undefined) throw new Error('the tracker is not started');
    into.or(this.#log);
    this.#reported.or(this.#log);
  }

  rearm(blockIndex: number, firstPage: number, pageCount: number): void {
    if (this.#log === undefined || this.#reported === undefined) throw new Error('the tracker is not started');
    const log = this.#log.at(blockIndex);
    const reported = this.#reported.at(blockIndex);
    const end = firstPage + pageCount;
    if (firstPage % 64 !== 0 || (end % 64 !== 0 && end !== log.pageCount)) {
      throw new Error(`rearm(${firstPage}, ${pageCount}) is not 64-page aligned`);
    }
    this.rearms++;
    for (let page = reported.nextDirty(firstPage); page !== -1 && page < end; page = reported.nextDirty(page + 1)) {
      log.clearRange(page, 1);
    }
    reported.clearRange(firstPage, pageCount);
  }

  async stop(): Promise<void> {
    this.stops++;
    this.#log = undefined;
    this.#reported = undefined;
  }
}

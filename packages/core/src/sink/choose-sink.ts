import type { PayloadTarget } from '../link/frame-stream.js';
import type { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { RamBlock } from '../memory/guest-memory.js';
import type { MemoryWindows } from '../memory/memory-windows.js';
import { FileSink, MappingSink } from './page-sink.js';

/**
 * Chooses the sink for the pages of each frame, by the block and by the run: fresh pages go into the memory file where there is one, pages
 * with memory behind them into the mapping. On a host of 2 processors (Linux 6.18) a fresh page took 4.2 us through the mapping, and
 * through the file 3.4 us for a single page, 2.6 us in runs of 4 and 1.8 us in runs of 16 or more.
 */
export class SinkChoice {
  readonly #windows: MemoryWindows;
  readonly #touched: DirtyBitmaps;
  readonly #mappings: readonly MappingSink[];

  /** `touched`: pages that may be other than zero, and so have memory behind them. */
  constructor(windows: MemoryWindows, touched: DirtyBitmaps) {
    this.#windows = windows;
    this.#touched = touched;
    this.#mappings = windows.memory.blocks.map((_, block) => new MappingSink(windows, block));
  }

  /** The targets for the bytes of these runs ([first page, page count, ...]). With `files` false all of them are in the mapping. */
  targets(block: number, runs: readonly number[], files: boolean): PayloadTarget[] {
    const into: PayloadTarget[] = [];
    const mapping = this.#mappings[block] as MappingSink;
    const file = files ? (this.#windows.memory.blocks[block] as RamBlock).memoryFile?.() : undefined;
    const fresh = file === undefined ? undefined : new FileSink(file, this.#windows.pageSize);
    const touched = this.#touched.at(block);
    for (let i = 0; i < runs.length; i += 2) {
      let page = runs[i] as number;
      const end = page + (runs[i + 1] as number);
      if (fresh === undefined) {
        mapping.append(into, page, end - page);
        continue;
      }
      while (page < end) {
        const there = touched.nextDirty(page, end);
        const stop = there === -1 ? end : there;
        if (stop > page) fresh.append(into, page, stop - page);
        if (stop === end) break;
        page = Math.min(touched.nextClean(stop), end);
        mapping.append(into, stop, page - stop);
      }
    }
    return into;
  }
}

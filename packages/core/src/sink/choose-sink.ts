import type { PayloadTarget } from '../link/frame-stream.js';
import type { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { RamBlock } from '../memory/guest-memory.js';
import type { MemoryWindows } from '../memory/memory-windows.js';
import { FileSink, MappingSink } from './page-sink.js';

/**
 * Fresh pages in a row from which on they go into the memory file, 32 KiB: for fewer of them the system call costs as much as the page
 * faults.
 */
const LEAST_FILE_PAGES = 8;

/** Chooses the sink for the pages of each frame, by the block and by the run: fresh pages go one way, those that are there another. */
export class SinkChoice {
  readonly #windows: MemoryWindows;
  readonly #touched: DirtyBitmaps;
  readonly #mappings: readonly MappingSink[];

  /** `touched`: pages that may not be zero, and so have memory behind them. */
  constructor(windows: MemoryWindows, touched: DirtyBitmaps) {
    this.#windows = windows;
    this.#touched = touched;
    this.#mappings = windows.memory.blocks.map((_, block) => new MappingSink(windows, block));
  }

  /** Where the bytes of these runs ([first page, page count, ...]) go. With `files` false only into the mapping. */
  targets(block: number, runs: readonly number[], files: boolean): PayloadTarget[] {
    const into: PayloadTarget[] = [];
    const mapping = this.#mappings[block] as MappingSink;
    const file = files ? (this.#windows.memory.blocks[block] as RamBlock).memoryFile?.() : undefined;
    const fresh = file === undefined ? undefined : new FileSink(file, this.#windows.pageSize);
    const touched = this.#touched.at(block);
    for (let i = 0; i < runs.length; i += 2) {
      let page = runs[i] as number;
      const end = page + (runs[i + 1] as number);
      while (page < end) {
        const there = fresh === undefined ? page : touched.nextDirty(page, end);
        const stop = there === -1 ? end : there;
        if (fresh !== undefined && stop - page >= LEAST_FILE_PAGES) {
          fresh.append(into, page, stop - page);
          page = stop;
          continue;
        }
        // A few fresh pages, and those behind them that are there.
        const next = fresh === undefined || there === -1 ? end : Math.min(touched.nextClean(there), end);
        mapping.append(into, page, next - page);
        page = next;
      }
    }
    return into;
  }
}

import type { PayloadTarget } from '../link/frame-stream.js';
import type { MemoryFile } from '../memory/guest-memory.js';
import type { MemoryWindows } from '../memory/memory-windows.js';

/** Gives the targets into which a destination reads the bytes of one block's pages. */
export interface PageSink {
  /** Appends the targets for the bytes of these pages, in the order of the pages. */
  append(into: PayloadTarget[], firstPage: number, pageCount: number): void;
}

/** Puts pages into the mapping: for all pages, whether or not they have memory behind them. */
export class MappingSink implements PageSink {
  readonly #windows: MemoryWindows;
  readonly #block: number;

  constructor(windows: MemoryWindows, block: number) {
    this.#windows = windows;
    this.#block = block;
  }

  append(into: PayloadTarget[], firstPage: number, pageCount: number): void {
    this.#windows.appendViews(into as Uint8Array[], this.#block, firstPage, pageCount);
  }
}

/**
 * Puts pages into the memory file: for fresh pages, which are then neither faulted in nor zeroed first. A page does not appear there as a
 * whole at once, so this sink may be used only while no guest runs in this memory.
 */
export class FileSink implements PageSink {
  readonly #file: MemoryFile;
  readonly #pageSize: number;

  constructor(file: MemoryFile, pageSize: number) {
    this.#file = file;
    this.#pageSize = pageSize;
  }

  append(into: PayloadTarget[], firstPage: number, pageCount: number): void {
    const { fd, position } = this.#file;
    into.push({ fd, position: position + firstPage * this.#pageSize, length: pageCount * this.#pageSize });
  }
}

import { GodwitError } from '../errors.js';
import { type GuestMemory, RAM_WINDOW_BYTES } from './guest-memory.js';

interface Window {
  readonly bytes: Uint8Array;
  /** The same memory as 32-bit words, for scanning; undefined when the view is not 4-byte aligned. */
  readonly words: Int32Array | undefined;
}

/**
 * Guest memory through one view for each window of at most 1 GiB, which is asked for once and kept. The code that sends and receives
 * pages uses this class instead of `RamBlock.view`.
 */
export class MemoryWindows {
  readonly memory: GuestMemory;
  readonly pageSize: number;
  readonly pagesPerWindow: number;
  readonly #windows: (Window | undefined)[][];

  constructor(memory: GuestMemory) {
    this.memory = memory;
    this.pageSize = memory.pageSize;
    this.pagesPerWindow = RAM_WINDOW_BYTES / memory.pageSize;
    this.#windows = memory.blocks.map((block) => new Array(Math.ceil(block.byteLength / RAM_WINDOW_BYTES)));
  }

  /**
   * Asks for every view now. V8 counts each view as external memory of its full size and collects garbage for it: once or twice for all
   * views if they are made here, but once for each view, in the middle of a round, if they are made when first used. Shared blocks are
   * left out: none of their pages is read or written.
   */
  open(): this {
    for (const [block, list] of this.#windows.entries()) {
      if (this.memory.blocks[block]?.shared) continue;
      for (let at = 0; at < list.length; at++) this.#window(block, at);
    }
    return this;
  }

  /** The memory of a run, as one view. Throws `GODWIT_OUT_OF_RANGE` when the run crosses a window (`pagesPerWindow`). */
  bytes(blockIndex: number, firstPage: number, pageCount: number): Uint8Array {
    const at = Math.floor(firstPage / this.pagesPerWindow);
    const offset = (firstPage - at * this.pagesPerWindow) * this.pageSize;
    const { bytes } = this.#window(blockIndex, at);
    const end = offset + pageCount * this.pageSize;
    if (end > bytes.byteLength) {
      throw new GodwitError(
        'GODWIT_OUT_OF_RANGE',
        `pages ${firstPage} + ${pageCount} of RAM block ${blockIndex} reach over the end of their window or block`,
      );
    }
    return bytes.subarray(offset, end);
  }

  /** The first page after the window that `page` is in. */
  windowEnd(page: number): number {
    return page - (page % this.pagesPerWindow) + this.pagesPerWindow;
  }

  /** Appends the views of a run to `into`, cut at window borders. */
  appendViews(into: Uint8Array[], blockIndex: number, firstPage: number, pageCount: number): void {
    let page = firstPage;
    let left = pageCount;
    while (left > 0) {
      const take = Math.min(left, this.pagesPerWindow - (page % this.pagesPerWindow));
      into.push(this.bytes(blockIndex, page, take));
      page += take;
      left -= take;
    }
  }

  /** The 32-bit words of the window that contains `page`; undefined when its view is not 4-byte aligned. */
  words(blockIndex: number, page: number): Int32Array | undefined {
    return this.#window(blockIndex, Math.floor(page / this.pagesPerWindow)).words;
  }

  #window(blockIndex: number, at: number): Window {
    const known = this.#windows[blockIndex]?.[at];
    if (known !== undefined) return known;
    const block = this.memory.blocks[blockIndex];
    const list = this.#windows[blockIndex];
    if (block === undefined || list === undefined || at >= list.length) {
      throw new GodwitError('GODWIT_OUT_OF_RANGE', `no window ${at} in RAM block ${blockIndex}`);
    }
    const offset = at * RAM_WINDOW_BYTES;
    const length = Math.min(RAM_WINDOW_BYTES, block.byteLength - offset);
    const bytes = block.view(offset, length);
    if (bytes.byteLength !== length) {
      throw new GodwitError(
        'GODWIT_INVALID_ARGUMENT',
        `RAM block "${block.id}" gave a view of ${bytes.byteLength} bytes for ${length} bytes at ${offset}`,
      );
    }
    const words =
      bytes.byteOffset % 4 === 0 ? new Int32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength >>> 2) : undefined;
    const window = { bytes, words };
    list[at] = window;
    return window;
  }
}

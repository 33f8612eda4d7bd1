import { GodwitError } from '@godwit/core';
import { DIGEST_BYTES, digestPages } from '@godwit/core/pages';

/**
 * Walks the pages of `runs` and the chunks that hold them side by side, and visits each stretch that is contiguous in
 * both: `length` bytes of `chunk` from `at` on are the pages from `page` on. The chunks must hold exactly those pages.
 */
export function eachSegment(
  runs: readonly number[],
  pageSize: number,
  chunks: readonly Uint8Array[],
  visit: (page: number, chunk: Uint8Array, at: number, length: number) => void,
): void {
  let index = 0;
  let at = 0;
  for (let i = 0; i < runs.length; i += 2) {
    let page = runs[i] as number;
    let left = (runs[i + 1] as number) * pageSize;
    while (left > 0) {
      const chunk = chunks[index] as Uint8Array;
      if (at === chunk.length) {
        index++;
        at = 0;
        continue;
      }
      const length = Math.min(left, chunk.length - at);
      visit(page, chunk, at, length);
      page += length / pageSize;
      left -= length;
      at += length;
    }
  }
}

export function pageCount(runs: readonly number[]): number {
  let pages = 0;
  for (let i = 1; i < runs.length; i += 2) pages += runs[i] as number;
  return pages;
}

export function byteCount(chunks: readonly Uint8Array[]): number {
  let bytes = 0;
  for (const chunk of chunks) bytes += chunk.length;
  return bytes;
}

/**
 * Whether every chunk has whole pages, at addresses of whole words: the engine's chunks always do. Others are first copied
 * into one piece.
 */
export function holdWholePages(chunks: readonly Uint8Array[], pageSize: number): boolean {
  return chunks.every((chunk) => chunk.length % pageSize === 0 && chunk.byteOffset % 4 === 0);
}

/** Makes digests of pages in guest memory. */
export class PageDigester {
  readonly #pageSize: number;

  constructor(pageSize: number) {
    if (pageSize % 16 !== 0)
      throw new GodwitError('GODWIT_INVALID_ARGUMENT', `pages of ${pageSize} bytes have no digest`);
    this.#pageSize = pageSize;
  }

  /** Puts the digests of the pages in `length` bytes of `chunk` from `at` on into `into`, two words each, from `first` on. */
  digest(chunk: Uint8Array, at: number, length: number, into: Uint32Array, first: number): void {
    digestPages(chunk, at, length, this.#pageSize, into, first);
  }
}

/** The bytes of digests, as they are in a frame and in the file. */
export function digestBytes(digests: Uint32Array, first: number, pages: number): Uint8Array {
  return new Uint8Array(digests.buffer, digests.byteOffset + first * 4, pages * DIGEST_BYTES);
}

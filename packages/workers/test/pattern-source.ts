import type { PagePlace, PageSource } from '@godwit/core/pages';

export const PAGE = 4096;

/** Options of `patternSource`; goes to the threads as it is. */
export interface Pattern {
  /** How often each page of block 0 was read. */
  readonly reads: SharedArrayBuffer;
  /** While the first number is 0, requests of several pages, which only the loading thread makes, wait; the second is 1 once one does. */
  readonly gate: SharedArrayBuffer;
  /** Pages of block 0 that cannot be had. */
  readonly broken?: readonly number[];
  /** A request of this page of block 0 alone waits while the number is 0. */
  readonly held?: { readonly page: number; readonly gate: SharedArrayBuffer };
  /** The block, first page and number of pages of each request, in order, from number 1 on; number 0 is how many numbers there are. */
  readonly order?: SharedArrayBuffer;
  /** The last check fails. */
  readonly badEnd?: boolean;
  /** No source at all. */
  readonly impossible?: boolean;
}

/** The word at an index of a page: no page is like another, and none is zero anywhere. */
export function wordOf(block: number, page: number, index: number): number {
  return ((block + 1) * 0x9e3779b1 + page * 0x85ebca77 + index * 3 + 1) | 1;
}

/** Answers each request at once, with pages that tell which they are. */
export function patternSource({ reads, gate, broken = [], held, order, badEnd, impossible }: Pattern): PageSource {
  if (impossible === true) throw new Error('there is no such source');
  const counts = new Int32Array(reads);
  const open = new Int32Array(gate);
  const log = order && new Int32Array(order);
  const queue: (PagePlace & { pages: number })[] = [];
  return {
    request: (block, page, pages) => void queue.push({ block, page, pages }),
    take(into, place) {
      const next = queue.shift();
      if (next === undefined) return 0;
      if (log !== undefined) log.set([next.block, next.page, next.pages], 1 + Atomics.add(log, 0, 3));
      if (next.pages > 1) {
        Atomics.store(open, 1, 1);
        Atomics.wait(open, 0, 0);
      }
      if (next.pages === 1 && held?.page === next.page && next.block === 0)
        Atomics.wait(new Int32Array(held.gate), 0, 0);
      const words = new Int32Array(into.buffer, into.byteOffset);
      for (let i = 0; i < next.pages; i++) {
        const page = next.page + i;
        place.block = next.block;
        place.page = page;
        if (next.block === 0) Atomics.add(counts, page, 1);
        if (next.block === 0 && broken.includes(page)) throw new Error(`page ${page} is damaged`);
        for (let at = 0; at < PAGE / 4; at++) words[(i * PAGE) / 4 + at] = wordOf(next.block, page, at);
      }
      place.page = next.page;
      return next.pages;
    },
    finish() {
      if (badEnd === true) throw new Error('the index is damaged');
    },
    close() {},
  };
}

import { pagesOf } from '../memory/guest-memory.js';
import type { MemoryWindows } from '../memory/memory-windows.js';
import type { PageRunList } from '../memory/page-run.js';
import type { DeltaCache } from './delta-cache.js';
import { encodeDelta, putVarint, varintBytes } from './delta-format.js';
import type { EncodedBatch } from './encoded-batch.js';

/** A delta that is larger than this part of its page does not pay: the page is sent whole. */
const WORTH = 0.75;

/** The memory from which whole pages are sent: guest memory, their slots, or their slots after a copy into these. */
type Place = 'guest' | 'slot' | 'copied';

/** Encodes pages against the cache, for one channel. */
export class DeltaEncoder {
  readonly #windows: MemoryWindows;
  readonly #cache: DeltaCache;
  /** Number of the first page of each block, counted over all blocks. */
  readonly #base: number[] = [];
  // The run of whole pages that is being collected; the pages are consecutive in guest memory, and in the slots too.
  #place: Place = 'guest';
  #first = 0;
  #slot = 0;
  #count = 0;

  constructor(windows: MemoryWindows, cache: DeltaCache) {
    this.#windows = windows;
    this.#cache = cache;
    let base = 0;
    for (const block of windows.memory.blocks) {
      this.#base.push(base);
      base += pagesOf(windows.memory, block);
    }
  }

  /** Sorts the pages of `from` into deltas and whole pages of `batch`, and keeps their versions in the cache. */
  encode(from: PageRunList, batch: EncodedBatch): void {
    let at = 0;
    for (let i = 0; i < from.length; i++) {
      at = this.#run(from.firstPage(i), from.runPages(i), batch, at);
      this.#flush(batch);
    }
    batch.deltaBytes = at;
  }

  /** Makes the cached versions of these pages invalid: they are sent as zero or as holes. */
  drop(block: number, runs: PageRunList): void {
    for (let i = 0; i < runs.length; i++) {
      this.#cache.drop((this.#base[block] as number) + runs.firstPage(i), runs.runPages(i));
    }
  }

  #run(first: number, count: number, batch: EncodedBatch, start: number): number {
    const { pageSize, pagesPerWindow } = this.#windows;
    const cache = this.#cache;
    const base = this.#base[batch.block] as number;
    const words = this.#windows.words(batch.block, first);
    const wordsPerPage = pageSize >>> 2;
    const most = Math.floor(pageSize * WORTH);
    const lengthBytes = varintBytes(most);
    let at = start;
    for (let page = first; page < first + count; page++) {
      // A page without 32-bit words is given no slot.
      const slot = cache.look(base + page, batch.round, words !== undefined);
      if (cache.found === 'bypass') {
        this.#whole('guest', page, 0, batch);
        continue;
      }
      if (cache.found === 'fill' || words === undefined) {
        this.#whole('copied', page, slot, batch);
        continue;
      }
      const from = at + lengthBytes;
      const end = encodeDelta(
        words,
        (page % pagesPerWindow) * wordsPerPage,
        cache.pages,
        slot * wordsPerPage,
        wordsPerPage,
        batch.deltas,
        from,
        from + most,
      );
      if (end === -1) {
        cache.failed(slot, batch.round);
        this.#whole('slot', page, slot, batch);
        continue;
      }
      cache.paid(slot);
      const length = end - from;
      const body = putVarint(batch.deltas, at, length);
      if (body !== from) batch.deltas.copyWithin(body, from, end);
      batch.delta.push(page, 1);
      at = body + length;
    }
    return at;
  }

  #whole(place: Place, page: number, slot: number, batch: EncodedBatch): void {
    const next = this.#count > 0 && place === this.#place && page === this.#first + this.#count;
    if (next && (place === 'guest' || slot === this.#slot + this.#count)) {
      this.#count++;
      return;
    }
    this.#flush(batch);
    this.#place = place;
    this.#first = page;
    this.#slot = slot;
    this.#count = 1;
  }

  #flush(batch: EncodedBatch): void {
    if (this.#count === 0) return;
    const { pageSize } = this.#windows;
    batch.whole.push(this.#first, this.#count);
    let bytes: Uint8Array;
    if (this.#place === 'slot') {
      bytes = this.#slots();
    } else {
      bytes = this.#windows.bytes(batch.block, this.#first, this.#count);
      if (this.#place === 'copied') {
        const slots = this.#slots();
        slots.set(bytes);
        bytes = slots;
      }
    }
    batch.chunks.push(bytes);
    batch.wholeBytes += this.#count * pageSize;
    this.#count = 0;
  }

  #slots(): Uint8Array {
    const { pageSize } = this.#windows;
    return this.#cache.pages.bytes.subarray(this.#slot * pageSize, (this.#slot + this.#count) * pageSize);
  }
}

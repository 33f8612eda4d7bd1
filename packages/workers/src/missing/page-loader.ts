import { GodwitError, type PagePlace, type PageSource } from '@godwit/core/pages';
import { ControlWord, type ServedMemoryParts, type ServiceReport } from './missing-messages.js';
import { PagePutter } from './page-putter.js';

/** Bytes that are brought at a time: enough for the disk, and few enough to be done soon. */
const BATCH_BYTES = 2 ** 20;
/** Bytes of pages that are brought after one for which a thread has waited: usually the thread needs them next. */
const BEHIND_BYTES = 2 ** 17;

/** Which pages of a block are brought: those before a page, or those of a bitmap. */
interface Which {
  readonly before?: number;
  readonly only?: Int32Array | undefined;
}

/**
 * Brings all missing pages in the background: first the guest's working set, where it is known, then the others, each in their order, but
 * before all of them those after the last fault. A page that a fault brings is left out.
 */
export class PageLoader {
  readonly #putter: PagePutter;
  readonly #control: Int32Array;
  readonly #source: PageSource;
  readonly #report: (report: ServiceReport) => void;
  readonly #place: PagePlace = { block: 0, page: 0 };
  readonly #most: number;
  readonly #behind: number;
  readonly #first: readonly Int32Array[] | undefined;
  #hintSeen = -1;

  constructor(parts: ServedMemoryParts, source: PageSource, report: (report: ServiceReport) => void) {
    this.#most = Math.max(1, Math.floor(BATCH_BYTES / parts.pageSize));
    this.#behind = Math.max(1, Math.floor(BEHIND_BYTES / parts.pageSize));
    this.#putter = new PagePutter(parts, this.#most);
    this.#control = new Int32Array(parts.control);
    this.#source = source;
    this.#first = parts.first?.map((bits) => new Int32Array(bits));
    this.#report = report;
  }

  /** Returns when all unclaimed pages were brought, or when it is told to stop. */
  run(): void {
    if (this.#first !== undefined) this.#bringAll(this.#first);
    this.#bringAll();
    if (!this.#stopped) this.#source.finish?.();
  }

  /** Brings all unclaimed pages, or those of `only`. */
  #bringAll(only?: readonly Int32Array[]): void {
    for (const block of this.#putter.blocks.keys()) {
      for (let from = 0; ; ) {
        if (this.#stopped) return;
        this.#bringHinted();
        const page = this.#bring(block, from, this.#most, { only: only?.[block] });
        if (page === -1) break;
        from = page;
      }
    }
  }

  get #stopped(): boolean {
    return Atomics.load(this.#control, ControlWord.stop) !== 0;
  }

  #bringHinted(): void {
    const page = Atomics.load(this.#control, ControlWord.hintPage);
    if (page === this.#hintSeen) return;
    this.#hintSeen = page;
    const block = Atomics.load(this.#control, ControlWord.hintBlock);
    // The hint's two words are not read at once, so that its page may belong to another block and be after the end of this one.
    this.#bring(block, page + 1, this.#behind, { before: page + 1 + this.#behind });
  }

  /** Brings the next run at or after `from`; returns the end of the run, or -1 when there is none. */
  #bring(block: number, from: number, most: number, { before = Number.POSITIVE_INFINITY, only }: Which): number {
    const { missing } = this.#putter;
    const end = Math.min(before, missing.buffers.pages[block] ?? 0);
    const page = missing.unclaimedRun(block, from, end, most, only);
    if (page === -1) return -1;
    const pages = missing.runPages;
    if (!this.#fetch(block, page, pages)) {
      // One of the pages cannot be had: they are brought one by one, to find out which.
      for (let i = 0; i < pages; i++) if (missing.isMissing(block, page + i)) this.#fetchOne(block, page + i);
    }
    return page + pages;
  }

  #fetch(block: number, page: number, pages: number): boolean {
    this.#source.request(block, page, pages);
    try {
      this.#takeAll();
      return true;
    } catch {
      return false;
    }
  }

  #fetchOne(block: number, page: number): void {
    this.#source.request(block, page, 1);
    try {
      this.#takeAll();
    } catch (error) {
      const { code, message } = GodwitError.wrap(error, 'GODWIT_INTERNAL', 'a page could not be read');
      this.#report({ type: 'lost', block, page, code, message });
    }
  }

  #takeAll(): void {
    const place = this.#place;
    for (;;) {
      const pages = this.#source.take(this.#putter.bytes, place);
      if (pages === 0) return;
      if (this.#putter.put(place.block, place.page, pages)) this.#report({ type: 'whole' });
    }
  }
}

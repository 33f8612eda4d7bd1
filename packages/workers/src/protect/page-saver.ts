import type { PageTarget } from '@godwit/core/pages';
import { Errno, HOST_PAGE_SIZE, MapFlags, mmap, munmap, viewOf, yieldProcessor } from '@godwit/linux/unstable/libc';
import { Userfaultfd } from '@godwit/linux/userfaultfd';
import { CopyBuffer } from './copy-buffer.js';
import { copyMemory } from './copy-memory.js';
import { OwedPages } from './owed-pages.js';
import { ControlWord, Figure, Mode, type ProtectedParts } from './protect-messages.js';

/** Bytes of pages that are read, made writable and saved at a time. */
const BATCH_BYTES = 2 ** 20;
/** Copies that are written in one call. */
const COPIES_AT_ONCE = 256;
/** How long the thread sleeps for copies, or for its order, before it checks whether it is to end. Milliseconds. */
const SLEEP_MS = 50;
/** The number of times that a call is repeated which the kernel refuses while the mapping is being changed. */
const TRIES = 1000;

/**
 * Saves the pages of the snapshot, on a thread of its own: first the copies of the fault thread, whose room is needed, and then all
 * other pages in their order. A page is read and made writable before it is written to the disk, so that no guest write waits for the
 * disk.
 */
export class PageSaver {
  readonly #parts: ProtectedParts;
  readonly #target: PageTarget;
  readonly #uffd: Userfaultfd;
  readonly #control: Int32Array;
  readonly #figures: Float64Array;
  readonly #owed: OwedPages;
  readonly #copies: CopyBuffer;
  readonly #copied: Uint8Array;
  readonly #batchPages: number;
  readonly #batch: bigint;
  readonly #bytes: Uint8Array;
  /** The number of saved pages. */
  #saved = 0;
  /** The runs of the batch that this thread has taken: for each run its first page, relative to the batch, and its length. */
  readonly #runs: number[] = [];
  /** The time at which the next batch may be read under a limit. Milliseconds. */
  #nextAt = 0;

  constructor(parts: ProtectedParts, target: PageTarget) {
    this.#parts = parts;
    this.#target = target;
    this.#uffd = Userfaultfd.attach(parts.uffd);
    this.#control = new Int32Array(parts.control);
    this.#figures = new Float64Array(parts.figures);
    this.#owed = new OwedPages(
      parts.owed,
      parts.blocks.map(({ byteLength }) => byteLength / parts.pageSize),
    );
    const { address, slots, pageSize } = parts.copies;
    this.#copies = new CopyBuffer(parts.copies);
    this.#copied = viewOf(BigInt(address), slots * pageSize);
    this.#batchPages = Math.max(1, Math.floor(BATCH_BYTES / parts.pageSize));
    const byteLength = Math.max(HOST_PAGE_SIZE, this.#batchPages * parts.pageSize);
    this.#batch = mmap({ byteLength, flags: MapFlags.MAP_PRIVATE | MapFlags.MAP_ANONYMOUS });
    this.#bytes = viewOf(this.#batch, byteLength);
  }

  /**
   * Waits for the moment of the snapshot, and saves it. Returns true when all pages are saved as they were at that moment, false when the
   * thread is told to stop, or when the snapshot has failed: pages are then written without having been copied.
   */
  run(): boolean {
    while (Atomics.load(this.#control, ControlWord.mode) === Mode.noting) {
      if (this.#stopped) return false;
      Atomics.wait(this.#control, ControlWord.mode, Mode.noting, SLEEP_MS);
    }
    for (const [block, owed] of this.#owed.bitmaps.entries()) {
      for (let page = owed.nextDirty(0); page !== -1; ) {
        this.#drain();
        if (this.#over) return false;
        if (this.#tooEarly()) continue;
        const end = Math.min(owed.nextClean(page), page + this.#batchPages);
        this.#saveRun(block, page, end - page);
        page = owed.nextDirty(end);
      }
    }
    // Saved pages are counted, since a page that the fault thread has taken out may not be in the buffer yet.
    while (this.#saved < (this.#figures[Figure.total] as number)) {
      if (this.#over) return false;
      if (!this.#drain()) this.#copies.waitForCopies(SLEEP_MS);
    }
    return !this.#over;
  }

  close(): void {
    munmap(this.#batch, this.#bytes.byteLength);
  }

  get #stopped(): boolean {
    return Atomics.load(this.#control, ControlWord.stop) !== 0;
  }

  /** Whether the thread is told to stop, or the other thread has failed and lets every page be written. */
  get #over(): boolean {
    return this.#stopped || Atomics.load(this.#control, ControlWord.mode) === Mode.lifting;
  }

  /** Saves the copies that are in the buffer; returns false when there are none. */
  #drain(): boolean {
    const { pageSize } = this.#parts;
    const { slots } = this.#parts.copies;
    let some = false;
    for (let count = this.#copies.next(COPIES_AT_ONCE); count > 0; count = this.#copies.next(COPIES_AT_ONCE)) {
      const { block, page, slot } = this.#copies;
      this.#written(this.#target.write(block, page, count, this.#copied, slot * pageSize));
      this.#copies.take(count);
      this.#saved += count;
      some = true;
      if (this.#over || count > slots) break;
    }
    return some;
  }

  /** Reads a run of owed pages, makes it writable, and saves the pages of it that the other thread has not taken. */
  #saveRun(block: number, page: number, pageCount: number): void {
    const { blocks, pageSize } = this.#parts;
    const start = (blocks[block] as { address: number }).address + page * pageSize;
    const begun = performance.now();
    copyMemory(Number(this.#batch), start, pageCount * pageSize);
    const taken = this.#takeRun(block, page, pageCount);
    this.#figures[Figure.read] = (this.#figures[Figure.read] as number) + taken;
    this.#letGo(start, pageCount * pageSize);
    const runs = this.#runs;
    let bytes = 0;
    for (let i = 0; i < runs.length; i += 2) {
      const [first, count] = [runs[i] as number, runs[i + 1] as number];
      bytes += this.#target.write(block, page + first, count, this.#bytes, first * pageSize);
    }
    this.#written(bytes);
    this.#saved += taken;
    this.#pace(begun, bytes);
  }

  /**
   * Takes out the pages that were read. Pages that the fault thread has taken may have been written meanwhile, and are in its buffer.
   */
  #takeRun(block: number, page: number, pageCount: number): number {
    const runs = this.#runs;
    runs.length = 0;
    let taken = 0;
    for (let at = page; at < page + pageCount; ) {
      const count = Math.min(32 - (at & 31), page + pageCount - at);
      const bits = this.#owed.takeWord(block, at, count);
      for (let i = 0; i < count; i++) {
        if ((bits & (1 << ((at + i) & 31))) === 0) continue;
        const first = at + i - page;
        taken++;
        if (runs.length > 0 && (runs.at(-2) as number) + (runs.at(-1) as number) === first)
          (runs[runs.length - 1] as number)++;
        else runs.push(first, 1);
      }
      at += count;
    }
    return taken;
  }

  #letGo(start: number, byteLength: number): void {
    for (let tries = 0; this.#uffd.writeProtect(start, byteLength, false) < byteLength; tries++) {
      if (this.#over) return;
      if (this.#uffd.errno !== Errno.EAGAIN || tries === TRIES) throw this.#uffd.failure();
      yieldProcessor();
    }
  }

  #written(bytes: number): void {
    this.#figures[Figure.written] = (this.#figures[Figure.written] as number) + bytes;
  }

  /** Delays the next batch by the time that `bytes` take under the limit. */
  #pace(begun: number, bytes: number): void {
    const limit = this.#figures[Figure.limit] as number;
    this.#nextAt = limit === 0 ? 0 : Math.max(this.#nextAt, begun) + (bytes / limit) * 1000;
  }

  /** Whether the limit requires a wait; a part of the wait is then over, in which copies may have come. */
  #tooEarly(): boolean {
    const limit = this.#figures[Figure.limit] as number;
    const now = performance.now();
    // The wait is never longer than one batch takes, since the limit may have been raised.
    if (limit > 0) this.#nextAt = Math.min(this.#nextAt, now + (BATCH_BYTES / limit) * 1000);
    const left = this.#nextAt - now;
    if (left <= 0 || limit === 0) return false;
    this.#copies.waitForCopies(Math.min(left, SLEEP_MS));
    return true;
  }
}

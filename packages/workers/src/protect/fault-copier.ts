import type { DirtyBitmap } from '@godwit/core/pages';
import { GodwitError } from '@godwit/core/pages';
import { Errno, PollSet, readFd, yieldProcessor } from '@godwit/linux/unstable/libc';
import { FaultMessages, Userfaultfd } from '@godwit/linux/userfaultfd';
import { FaultStatistics } from '../missing/fault-statistics.js';
import { nowUs } from '../missing/now-us.js';
import { CopyBuffer } from './copy-buffer.js';
import { copyMemory } from './copy-memory.js';
import { bitmapsIn, OwedPages } from './owed-pages.js';
import { ControlWord, Figure, Mode, type ProtectedParts, type ProtectReport } from './protect-messages.js';
import { WriteStreams } from './write-streams.js';

/** How long the thread polls for the next fault, yielding to other threads, before it sleeps. Microseconds. */
const AWAKE_US = 200;
/** The longest sleep: Node can end the thread only between two calls. Milliseconds. */
const SLEEP_MS = 500;
/** How long the thread waits for room in a full buffer before it looks at new faults, most of which need no room. Milliseconds. */
const ROOM_MS = 1;
/**
 * The pages that are protected in one call; faults are served between two calls. While a call changes the page table, KVM resolves no page
 * fault of a vCPU in that range: some 50 us for 2 MiB.
 */
const CHUNK_PAGES = 512;
/**
 * Pages that were not written are protected with their neighbours up to this gap: these are protected already, and one call, which
 * interrupts every processor that runs the guest, takes as long as a hundred pages (some 50 us; 131,072 pages in one call: 52 ms).
 */
const GAP_PAGES = 128;
/** The number of times that a call is repeated which the kernel refuses while the mapping is being changed. */
const TRIES = 1000;

interface Fault {
  readonly block: number;
  readonly page: number;
}

/**
 * Serves the page faults of writes to protected memory, on a thread of its own: until the moment of the snapshot the thread lets the write
 * through and notes the page; after it, the thread copies the page first, with pages that are likely to follow. The same thread protects
 * the memory, so that protecting a page and letting it be written have one order. It waits only for room in the buffer, and reads guest
 * memory but never writes it.
 */
export class FaultCopier {
  readonly #parts: ProtectedParts;
  readonly #report: (report: ProtectReport) => void;
  readonly #uffd: Userfaultfd;
  readonly #messages: FaultMessages;
  readonly #statistics: FaultStatistics;
  readonly #control: Int32Array;
  readonly #figures: Float64Array;
  readonly #owed: OwedPages;
  readonly #written: readonly DirtyBitmap[];
  readonly #copies: CopyBuffer;
  readonly #streams = new WriteStreams();
  readonly #poll: PollSet;
  readonly #counter = new Uint8Array(new ArrayBuffer(8));
  readonly #pageCounts: readonly number[];
  /** Faults that wait for room. */
  #waiting: Fault[] = [];

  constructor(parts: ProtectedParts, report: (report: ProtectReport) => void) {
    this.#parts = parts;
    this.#report = report;
    this.#uffd = Userfaultfd.attach(parts.uffd);
    this.#messages = new FaultMessages(parts.uffd);
    this.#statistics = new FaultStatistics(parts.statistics);
    this.#control = new Int32Array(parts.control);
    this.#figures = new Float64Array(parts.figures);
    this.#pageCounts = parts.blocks.map(({ byteLength }) => byteLength / parts.pageSize);
    this.#owed = new OwedPages(parts.owed, this.#pageCounts);
    this.#written = bitmapsIn(parts.written, this.#pageCounts);
    this.#copies = new CopyBuffer(parts.copies);
    this.#poll = new PollSet([parts.uffd, parts.wake]);
  }

  /** Protects all memory and serves its faults. Returns when the thread is told to stop. */
  run(): void {
    this.#protectAll();
    if (this.#stopped) return;
    this.#report({ type: 'protected' });
    let sleepAt = nowUs() + AWAKE_US;
    while (!this.#stopped) {
      if (this.step()) sleepAt = nowUs() + AWAKE_US;
      else if (this.#waiting.length > 0) this.#copies.waitForRoom(ROOM_MS);
      else if (nowUs() < sleepAt) yieldProcessor();
      else {
        this.#poll.wait(SLEEP_MS);
        if (this.#poll.found(1) !== 0) readFd(this.#parts.wake, this.#counter);
      }
    }
  }

  /** Does all pending work; returns false when there was none. */
  step(): boolean {
    const frozen = this.#freezeIfAsked();
    const retried = this.#retry();
    return this.#readFaults() || retried || frozen;
  }

  /** Handles the fault of a thread that is about to write the page at this address, and waits. */
  fault(address: number, thread: number, now: number): void {
    const { blocks, pageSize } = this.#parts;
    const block = blocks.findIndex(({ address: at, byteLength }) => address >= at && address < at + byteLength);
    if (block === -1) {
      throw new GodwitError(
        'GODWIT_INTERNAL',
        `a page fault at 0x${address.toString(16)} is outside the protected memory`,
      );
    }
    const page = Math.floor((address - (blocks[block] as { address: number }).address) / pageSize);
    // Several threads may wait for the same page, or one that a signal has woken again: letting the page be written once is enough for all.
    this.#statistics.begin(thread, block, page, now);
    if (this.#serve(block, page)) return;
    this.#figures[Figure.withoutRoom] = (this.#figures[Figure.withoutRoom] as number) + 1;
    this.#waiting.push({ block, page });
  }

  get #stopped(): boolean {
    return Atomics.load(this.#control, ControlWord.stop) !== 0;
  }

  get #mode(): number {
    return Atomics.load(this.#control, ControlWord.mode);
  }

  #readFaults(): boolean {
    const count = this.#messages.read();
    if (count === 0) return false;
    const now = nowUs();
    for (let i = 0; i < count; i++) {
      if (this.#messages.isWriteProtected(i)) this.fault(this.#messages.address(i), this.#messages.thread(i), now);
    }
    return true;
  }

  #retry(): boolean {
    if (this.#waiting.length === 0) return false;
    const waiting = this.#waiting;
    this.#waiting = waiting.filter(({ block, page }) => !this.#serve(block, page));
    return this.#waiting.length < waiting.length;
  }

  /** Notes or copies the page, and then lets it be written; returns false when there is no room for its copy. */
  #serve(block: number, page: number): boolean {
    let pages = 1;
    if (this.#mode === Mode.noting) {
      // The page is noted before it may be written, so that `freeze` protects it again.
      (this.#written[block] as DirtyBitmap).setRange(page, 1);
    } else if (this.#mode === Mode.copying && this.#owed.isOwed(block, page)) {
      pages = this.#copy(block, page);
      if (pages === 0) return false;
    }
    this.#letGo(block, page, pages);
    this.#statistics.settle(block, page, pages, nowUs());
    return true;
  }

  /** Copies this page and the pages after it, as far as they are owed and there is room; returns how many pages may then be written. */
  #copy(block: number, page: number): number {
    const { blocks, pageSize } = this.#parts;
    const { address } = blocks[block] as { address: number };
    const end = Math.min(page + this.#streams.pagesAt(block, page), this.#pageCounts[block] as number);
    let copied = 0;
    let at = page;
    for (; at < end; at++) {
      if (!this.#owed.isOwed(block, at)) continue;
      const { room } = this.#copies;
      if (room === -1) break;
      copyMemory(room, address + at * pageSize, pageSize);
      if (!this.#owed.take(block, at)) continue;
      this.#copies.put(block, at);
      copied++;
    }
    if (copied > 0) {
      this.#figures[Figure.copied] = (this.#figures[Figure.copied] as number) + copied;
      this.#copies.announce();
    }
    return at - page;
  }

  #letGo(block: number, page: number, pages: number): void {
    this.#change(block, page, pages, false);
  }

  #change(block: number, page: number, pages: number, protect: boolean): void {
    const { blocks, pageSize } = this.#parts;
    const start = (blocks[block] as { address: number }).address + page * pageSize;
    const byteLength = pages * pageSize;
    for (let tries = 0; this.#uffd.writeProtect(start, byteLength, protect) < byteLength; tries++) {
      // The main thread has taken the ranges out, since the service ends: nothing is protected any more.
      if (this.#stopped) return;
      if (this.#uffd.errno !== Errno.EAGAIN || tries === TRIES) throw this.#uffd.failure();
      yieldProcessor();
    }
  }

  /** Protects the owed pages while the guest runs, and serves its faults meanwhile. */
  #protectAll(): void {
    for (const [block, owed] of this.#owed.bitmaps.entries()) {
      for (let page = owed.nextDirty(0); page !== -1 && !this.#stopped; ) {
        const end = Math.min(owed.nextClean(page), page + CHUNK_PAGES);
        this.#change(block, page, end - page, true);
        this.#readFaults();
        page = owed.nextDirty(end);
      }
    }
  }

  #freezeIfAsked(): boolean {
    if (this.#mode !== Mode.noting || Atomics.load(this.#control, ControlWord.freeze) === 0) return false;
    // Faults from before the pause that were not served yet are noted here, and their pages are not copied.
    this.#readFaults();
    let pages = 0;
    for (const [block, written] of this.#written.entries()) pages += this.#protectWritten(block, written);
    // The mode does not change if the snapshot has failed meanwhile.
    Atomics.compareExchange(this.#control, ControlWord.mode, Mode.noting, Mode.copying);
    Atomics.notify(this.#control, ControlWord.mode);
    this.#report({ type: 'frozen', pages });
    return true;
  }

  /** Protects again the pages that were written; returns their number. */
  #protectWritten(block: number, written: DirtyBitmap): number {
    for (let page = written.nextDirty(0); page !== -1; ) {
      let end = written.nextClean(page);
      let next = written.nextDirty(end);
      while (next !== -1 && next - end <= GAP_PAGES) {
        end = written.nextClean(next);
        next = written.nextDirty(end);
      }
      this.#change(block, page, end - page, true);
      page = next;
    }
    return written.count();
  }
}

import { GodwitError, type PagePlace, type PageSource } from '@godwit/core/pages';
import { closeFd, PollSet, readFd } from '@godwit/linux/unstable/libc';
import { FaultMessages } from '@godwit/linux/userfaultfd';
import { AskedPages } from './asked-pages.js';
import { FaultStatistics } from './fault-statistics.js';
import { type AnsweredPages, LinkPages } from './link-pages.js';
import {
  type AskOver,
  ControlWord,
  type FaultOrder,
  type PresentOrder,
  type ServedMemoryParts,
  type ServiceReport,
} from './missing-messages.js';
import { nowUs } from './now-us.js';
import { PagePutter } from './page-putter.js';
import { sizesOf } from './sizes-of.js';

/** The longest sleep: Node can end the thread only between two calls. Milliseconds. */
const SLEEP_MS = 500;
/** The number of pages that may come at once. */
const PAGES_AT_ONCE = 64;

/**
 * Serves page faults, on a thread of its own that never touches guest memory: reads which pages are waited for, asks the `PageSource` for
 * them and puts them into memory, or asks for them over a link, which may be lost and made anew. Orders to bring pages (`PresentOrder`) are
 * served one page at a time, when no fault waits.
 */
export class FaultLoop {
  readonly #messages: FaultMessages;
  readonly #putter: PagePutter;
  readonly #statistics: FaultStatistics;
  readonly #control: Int32Array;
  readonly #parts: ServedMemoryParts;
  #poll: PollSet;
  readonly #wake: number;
  readonly #counter = new Uint8Array(new ArrayBuffer(8));
  readonly #source: PageSource | undefined;
  #link: LinkPages | undefined;
  #generation = 0;
  readonly #pollMs: number;
  /** Until then the thread polls for an answer. Milliseconds of `performance.now`. */
  #pollUntil = 0;
  /** True while the main thread asks for pages. */
  #relayed = false;
  /** Without a `PageSource`: pages that were asked for and have not come. */
  readonly #asked = new AskedPages((block, page) => this.#isMissing(block, page));
  /** Pages that are still to be asked for. */
  readonly #unasked: PagePlace[] = [];
  readonly #report: (report: ServiceReport) => void;
  readonly #takeOrder: () => FaultOrder | undefined;
  readonly #place: PagePlace = { block: 0, page: 0 };
  #orders: PresentOrder[] = [];
  #ordersSeen = 0;
  /** The page that was asked for on behalf of an order. */
  #fetching: PagePlace | undefined;
  readonly #lost = new Set<string>();

  constructor(
    parts: ServedMemoryParts,
    source: PageSource | undefined,
    takeOrder: () => FaultOrder | undefined,
    report: (report: ServiceReport) => void,
    pollMs = 0,
  ) {
    this.#pollMs = pollMs;
    this.#messages = new FaultMessages(parts.uffd);
    this.#statistics = new FaultStatistics(parts.statistics);
    this.#putter = new PagePutter(parts, PAGES_AT_ONCE);
    this.#control = new Int32Array(parts.control);
    this.#wake = parts.wake;
    this.#source = source;
    this.#parts = parts;
    this.#poll = this.#pollSet(source?.descriptor);
    this.#takeOrder = takeOrder;
    this.#report = report;
  }

  /** Serves faults; returns when it is told to stop. Meanwhile the event loop of this thread does not run. */
  run(): void {
    try {
      this.#run();
    } finally {
      this.#link?.close();
      // A link that came with the order to stop is closed here, since no other code owns it.
      for (let order = this.#takeOrder(); order !== undefined; order = this.#takeOrder()) {
        if ('generation' in order && order.link !== undefined) closeFd(order.link.fd);
      }
    }
  }

  /** Does all pending work, that on the link included; returns false when there was none. */
  turn(): boolean {
    const stepped = this.step();
    const delivered = this.#link?.readable === true && this.#deliverFrom(this.#link);
    // Pages that have arrived may be the ones that are waited for, so they come first.
    if (!delivered) this.#askForUnasked();
    return stepped || delivered;
  }

  /**
   * The thread sleeps as soon as there is no work, unless it has a real-time priority and waits for an answer: waking up takes as long as
   * the answer. A thread of the usual policy that polls and yields its processor meanwhile comes back only when the one that it was yielded
   * to has used up its time: with V8's own threads beside it on 2 processors, 1 fault in 50 waited 1 to 4 ms.
   */
  #run(): void {
    while (Atomics.load(this.#control, ControlWord.stop) === 0) {
      if (this.turn() || this.#polls()) continue;
      this.#poll.wait(SLEEP_MS);
      if (this.#poll.found(1) !== 0) readFd(this.#wake, this.#counter);
    }
  }

  /** Whether the answer to the last request is still polled for. */
  #polls(): boolean {
    if (this.#pollUntil === 0) return false;
    if (performance.now() < this.#pollUntil) return true;
    this.#pollUntil = 0;
    return false;
  }

  /** Does all pending work; returns false when there was none. */
  step(): boolean {
    this.#statistics.settleArrived(this.#isMissing);
    const faults = this.#readFaults();
    const orders = this.#readOrders();
    const delivered = this.#deliver();
    const fetched = this.#fetchOrdered();
    return faults || orders || delivered || fetched;
  }

  #readFaults(): boolean {
    const count = this.#messages.read();
    if (count === 0) return false;
    const now = nowUs();
    for (let i = 0; i < count; i++) {
      if (this.#messages.isMissing(i)) this.#fault(this.#messages.address(i), this.#messages.thread(i), now);
    }
    return true;
  }

  #fault(address: number, thread: number, now: number): void {
    const putter = this.#putter;
    const block = putter.blockAt(address);
    if (block === -1) {
      throw new GodwitError(
        'GODWIT_INTERNAL',
        `a page fault at 0x${address.toString(16)} is outside the memory that is served`,
      );
    }
    const page = Math.floor((address - putter.addressOf(block, 0)) / putter.pageSize);
    // This is read before the wait is counted, so that a page for which two threads wait is asked for once.
    const asked = this.#statistics.isAwaited(block, page) || this.#isFetching(block, page);
    this.#statistics.begin(thread, block, page, now);
    if (!putter.missing.isMissing(block, page)) {
      putter.zero(block, page);
      this.#statistics.countZero();
      this.#statistics.settle(block, page, 1, nowUs());
      return;
    }
    Atomics.store(this.#control, ControlWord.hintPage, page);
    Atomics.store(this.#control, ControlWord.hintBlock, block);
    if (asked || this.#lost.has(`${block}/${page}`)) return;
    this.#request(block, page);
  }

  #request(block: number, page: number): void {
    this.#putter.missing.claim(block, page);
    if (this.#source !== undefined) {
      this.#source.request(block, page, 1);
      return;
    }
    this.#asked.add(block, page);
    this.#unasked.push({ block, page });
  }

  /** Asks for the pages that are still missing; without a link they are asked for once there is one again. */
  #askForUnasked(): void {
    if (this.#unasked.length === 0) return;
    for (const { block, page } of this.#unasked.splice(0)) {
      if (!this.#isMissing(block, page)) continue;
      if (this.#link !== undefined) {
        this.#link.request(block, page);
        if (this.#pollMs > 0) this.#pollUntil = performance.now() + this.#pollMs;
      } else if (this.#relayed) this.#report({ type: 'asked', block, page });
    }
  }

  readonly #isMissing = (block: number, page: number): boolean => this.#putter.missing.isMissing(block, page);

  /** Puts one delivery of the source into memory. */
  #deliver(): boolean {
    if (this.#source === undefined) return false;
    const place = this.#place;
    let pages: number;
    try {
      pages = this.#source.take(this.#putter.bytes, place);
    } catch (error) {
      this.#lose(place, error);
      return true;
    }
    if (pages === 0) return false;
    const { block, page } = place;
    this.#put(block, page, pages, 0);
    return true;
  }

  #put(block: number, page: number, pages: number, offset: number): void {
    const last = this.#putter.put(block, page, pages, offset);
    this.#asked.came(block, page, pages);
    this.#statistics.settle(block, page, pages, nowUs());
    const fetching = this.#fetching;
    if (fetching?.block === block && fetching.page >= page && fetching.page < page + pages) this.#fetching = undefined;
    if (last) this.#report({ type: 'whole' });
  }

  /** Puts one answer of the source into memory. */
  #deliverFrom(link: LinkPages): boolean {
    const putter = this.#putter;
    try {
      const { block, runs } = this.#answerFrom(link);
      let offset = 0;
      for (let i = 0; i < runs.length; i += 2) {
        const [page, pages] = [runs[i] as number, runs[i + 1] as number];
        this.#put(block, page, pages, offset);
        offset += pages * putter.pageSize;
      }
    } catch (error) {
      this.#loseLink(error);
    }
    return true;
  }

  /** Reads one answer; until it is complete, this thread reads no fault. */
  #answerFrom(link: LinkPages): AnsweredPages {
    this.#statistics.answering(nowUs());
    try {
      return link.take(this.#putter.bytes);
    } finally {
      this.#statistics.answered();
    }
  }

  /** Notes that the link is lost. Threads that wait for a page go on waiting until there is another link. */
  #loseLink(error: unknown): void {
    this.#link?.close();
    this.#link = undefined;
    this.#poll = this.#pollSet(undefined);
    const { code, message } = GodwitError.wrap(error, 'GODWIT_LINK_LOST', 'the urgent channel failed');
    this.#report({ type: 'link lost', generation: this.#generation, code, message });
  }

  /** Asks over another link from now on, also for the pages that were asked for and are still missing. */
  #askOver({ generation, link }: AskOver): void {
    this.#generation = generation;
    this.#link?.close();
    this.#relayed = link === undefined;
    this.#link = link && new LinkPages(link, sizesOf(this.#parts), this.#pollMs);
    this.#poll = this.#pollSet(link?.fd);
    this.#unasked.splice(0, this.#unasked.length, ...this.#asked.still());
  }

  #pollSet(descriptor: number | undefined): PollSet {
    const { uffd, wake } = this.#parts;
    return new PollSet([uffd, wake, ...(descriptor === undefined ? [] : [descriptor])]);
  }

  #readOrders(): boolean {
    const orders = Atomics.load(this.#control, ControlWord.orders);
    if (orders === this.#ordersSeen) return false;
    this.#ordersSeen = orders;
    for (let order = this.#takeOrder(); order !== undefined; order = this.#takeOrder()) {
      if ('generation' in order) this.#askOver(order);
      else this.#orders.push(order);
    }
    return true;
  }

  /** Asks for the next page of the first unfinished order, when no fault waits; reports the orders that are finished. */
  #fetchOrdered(): boolean {
    const { missing } = this.#putter;
    const fetching = this.#fetching;
    // Another thread may have put the page.
    if (fetching !== undefined && !missing.isMissing(fetching.block, fetching.page)) this.#fetching = undefined;
    if (this.#orders.length === 0 || this.#fetching !== undefined) return false;
    for (;;) {
      const [order] = this.#orders;
      if (order === undefined) return true;
      const page = missing.firstMissing(order.block, order.page, order.pageCount);
      if (page === -1) {
        this.#orders.shift();
        this.#report({ type: 'present', id: order.id });
        continue;
      }
      if (this.#lost.has(`${order.block}/${page}`)) {
        // The main thread was told which page cannot be had, and rejects the promises that wait for it.
        this.#orders.shift();
        continue;
      }
      if (this.#statistics.isAwaited(order.block, page)) return false;
      this.#fetching = { block: order.block, page };
      this.#request(order.block, page);
      return true;
    }
  }

  #isFetching(block: number, page: number): boolean {
    return this.#fetching?.block === block && this.#fetching.page === page;
  }

  #lose({ block, page }: PagePlace, error: unknown): void {
    if (this.#isFetching(block, page)) this.#fetching = undefined;
    const key = `${block}/${page}`;
    if (this.#lost.has(key)) return;
    this.#lost.add(key);
    const { code, message } = GodwitError.wrap(error, 'GODWIT_INTERNAL', 'a page could not be read');
    this.#report({ type: 'lost', block, page, code, message });
  }
}

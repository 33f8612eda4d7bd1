import { GodwitError, type PagePlace, type PageSource } from '@godwit/core/pages';
import { FaultMessages } from '@godwit/linux';
import { PollSet, readFd, yieldProcessor } from '@godwit/linux/unstable/libc';
import { FaultStatistics } from './fault-statistics.js';
import { ControlWord, type PresentOrder, type ServedMemoryParts, type ServiceReport } from './missing-messages.js';
import { PagePutter } from './page-putter.js';

/** How long the thread looks for the next fault, giving way to others, before it sleeps. Microseconds. */
const AWAKE_US = 200;
/** The longest sleep: Node can end the thread only between two calls. Milliseconds. */
const SLEEP_MS = 500;
/** Room for pages that come together. */
const PAGES_AT_ONCE = 64;

/** Microseconds since 1970, on any thread. */
export function nowUs(): number {
  return (performance.timeOrigin + performance.now()) * 1000;
}

/**
 * Serves page faults, on a thread of its own that never touches guest memory: reads which pages are waited for, asks the source for them,
 * and puts them there. Orders to bring pages (`PresentOrder`) are served one page at a time, when no fault waits.
 */
export class FaultLoop {
  readonly #messages: FaultMessages;
  readonly #putter: PagePutter;
  readonly #statistics: FaultStatistics;
  readonly #control: Int32Array;
  readonly #poll: PollSet;
  readonly #wake: number;
  readonly #counter = new Uint8Array(new ArrayBuffer(8));
  readonly #source: PageSource;
  readonly #report: (report: ServiceReport) => void;
  readonly #takeOrder: () => PresentOrder | undefined;
  readonly #place: PagePlace = { block: 0, page: 0 };
  #orders: PresentOrder[] = [];
  #ordersSeen = 0;
  /** The page that was asked for by an order. */
  #fetching: PagePlace | undefined;
  readonly #lost = new Set<string>();

  constructor(
    parts: ServedMemoryParts,
    source: PageSource,
    takeOrder: () => PresentOrder | undefined,
    report: (report: ServiceReport) => void,
  ) {
    this.#messages = new FaultMessages(parts.uffd);
    this.#statistics = new FaultStatistics(parts.statistics);
    this.#putter = new PagePutter(parts, PAGES_AT_ONCE);
    this.#control = new Int32Array(parts.control);
    this.#wake = parts.wake;
    this.#source = source;
    const { descriptor } = source;
    this.#poll = new PollSet([parts.uffd, parts.wake, ...(descriptor === undefined ? [] : [descriptor])]);
    this.#takeOrder = takeOrder;
    this.#report = report;
  }

  /** Returns when it is told to stop. */
  run(): void {
    let sleepAt = nowUs() + AWAKE_US;
    while (Atomics.load(this.#control, ControlWord.stop) === 0) {
      if (this.step()) {
        sleepAt = nowUs() + AWAKE_US;
        continue;
      }
      if (nowUs() < sleepAt) {
        yieldProcessor();
        continue;
      }
      this.#poll.wait(SLEEP_MS);
      if (this.#poll.found(1) !== 0) readFd(this.#wake, this.#counter);
    }
  }

  /** Does what there is to do; false when there was nothing. */
  step(): boolean {
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
    // Before the wait is counted: a page that two threads wait for is asked for once.
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
    putter.missing.claim(block, page);
    this.#source.request(block, page, 1);
  }

  /** Puts one delivery of the source into memory. */
  #deliver(): boolean {
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
    const last = this.#putter.put(block, page, pages);
    this.#statistics.settle(block, page, pages, nowUs());
    const fetching = this.#fetching;
    if (fetching?.block === block && fetching.page >= page && fetching.page < page + pages) this.#fetching = undefined;
    if (last) this.#report({ type: 'whole' });
    return true;
  }

  #readOrders(): boolean {
    const orders = Atomics.load(this.#control, ControlWord.orders);
    if (orders === this.#ordersSeen) return false;
    this.#ordersSeen = orders;
    for (let order = this.#takeOrder(); order !== undefined; order = this.#takeOrder()) this.#orders.push(order);
    return true;
  }

  /** Asks for the next page of the first order that is not served, when no fault waits; reports those that are. */
  #fetchOrdered(): boolean {
    if (this.#orders.length === 0 || this.#fetching !== undefined) return false;
    const { missing } = this.#putter;
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
        // The main thread has been told which page it is, and answers who waits.
        this.#orders.shift();
        continue;
      }
      if (this.#statistics.isAwaited(order.block, page)) return false;
      this.#fetching = { block: order.block, page };
      missing.claim(order.block, page);
      this.#source.request(order.block, page, 1);
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

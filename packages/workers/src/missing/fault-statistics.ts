import type { FaultStatus } from '@godwit/core/pages';
import { nowUs } from './now-us.js';

/** Elements of the distribution, as QEMU has them. */
export const LATENCY_BUCKETS = 32;
/** The number of threads whose times are counted separately; further threads share the last row. */
export const MOST_THREADS = 128;

const Counter = { faults: 0, zeroFaults: 1, worstUs: 2, answerSince: 3, count: 4 } as const;
const Row = { thread: 0, faults: 1, blockedUs: 2, since: 3, count: 4 } as const;
const ROWS = Counter.count + LATENCY_BUCKETS;
const NUMBERS = ROWS + MOST_THREADS * Row.count;

/** The counts that this class keeps. */
export type FaultCounts = Pick<
  FaultStatus,
  'faults' | 'zeroFaults' | 'latencyDistribution' | 'worstLatencyUs' | 'blocked' | 'waitingUs'
>;

/** A fault that is not served yet. */
interface Waiting {
  thread: number;
  block: number;
  page: number;
  sinceUs: number;
  row: number;
}

/**
 * The counts of the fault thread, in shared memory that any thread can read at any time. Only the fault thread writes; each number is
 * a 64-bit float, which is stored and read whole.
 */
export class FaultStatistics {
  readonly storage: SharedArrayBuffer;
  readonly #numbers: Float64Array;
  readonly #waiting: Waiting[] = [];
  readonly #spare: Waiting[] = [];

  constructor(storage = new SharedArrayBuffer(NUMBERS * 8)) {
    this.storage = storage;
    this.#numbers = new Float64Array(storage);
  }

  /** Whether a thread waits for this page. */
  isAwaited(block: number, page: number): boolean {
    for (const waiting of this.#waiting) if (waiting.page === page && waiting.block === block) return true;
    return false;
  }

  /**
   * A thread begins to wait for a page. A thread that was woken by a signal and waits for the same page again counts as having waited
   * all the time.
   *
   * @param nowUs the time, in microseconds since 1970: threads read the same clock
   */
  begin(thread: number, block: number, page: number, nowUs: number): void {
    if (thread !== 0) {
      for (let i = this.#waiting.length - 1; i >= 0; i--) {
        const waiting = this.#waiting[i] as Waiting;
        if (waiting.thread !== thread) continue;
        if (waiting.page === page && waiting.block === block) return;
        this.#end(i, nowUs, false);
      }
    }
    this.#add(Counter.faults, 1);
    const row = this.#rowOf(thread);
    this.#numbers[row + Row.faults] = (this.#numbers[row + Row.faults] as number) + 1;
    this.#numbers[row + Row.since] = nowUs;
    const waiting = this.#spare.pop() ?? { thread: 0, block: 0, page: 0, sinceUs: 0, row: 0 };
    waiting.thread = thread;
    waiting.block = block;
    waiting.page = page;
    waiting.sinceUs = nowUs;
    waiting.row = row;
    this.#waiting.push(waiting);
  }

  /** Ends the waits for these pages, which are in memory now. */
  settle(block: number, page: number, pageCount: number, nowUs: number): void {
    for (let i = this.#waiting.length - 1; i >= 0; i--) {
      const waiting = this.#waiting[i] as Waiting;
      if (waiting.block === block && waiting.page >= page && waiting.page < page + pageCount) this.#end(i, nowUs, true);
    }
  }

  /** Ends every wait for a page that `isMissing` says is there: another thread has put it. */
  settleArrived(isMissing: (block: number, page: number) => boolean): void {
    for (let i = this.#waiting.length - 1; i >= 0; i--) {
      const { block, page } = this.#waiting[i] as Waiting;
      if (!isMissing(block, page)) this.#end(i, nowUs(), true);
    }
  }

  /** An answer of the source has begun to come: until `answered`, the fault thread reads it, and no fault. */
  answering(nowUs: number): void {
    this.#numbers[Counter.answerSince] = nowUs;
  }

  answered(): void {
    this.#numbers[Counter.answerSince] = 0;
  }

  countZero(): void {
    this.#add(Counter.zeroFaults, 1);
  }

  /** Reads the counts; any thread may call this at any time. */
  read(nowUs: number): FaultCounts {
    const numbers = this.#numbers;
    // Threads may wait of which the fault thread does not know while it reads an answer.
    const answerSince = numbers[Counter.answerSince] as number;
    let waitingUs = answerSince === 0 ? 0 : Math.max(0, nowUs - answerSince);
    const blocked: { thread: number; faults: number; blockedUs: number }[] = [];
    for (let row = ROWS; row < NUMBERS && (numbers[row + Row.faults] as number) > 0; row += Row.count) {
      const since = numbers[row + Row.since] as number;
      const underWay = since === 0 ? 0 : Math.max(0, nowUs - since);
      waitingUs = Math.max(waitingUs, underWay);
      const blockedUs = (numbers[row + Row.blockedUs] as number) + underWay;
      blocked.push({
        thread: numbers[row + Row.thread] as number,
        faults: numbers[row + Row.faults] as number,
        blockedUs,
      });
    }
    return {
      faults: numbers[Counter.faults] as number,
      zeroFaults: numbers[Counter.zeroFaults] as number,
      worstLatencyUs: numbers[Counter.worstUs] as number,
      latencyDistribution: Array.from(numbers.subarray(Counter.count, Counter.count + LATENCY_BUCKETS)),
      blocked,
      waitingUs,
    };
  }

  #end(at: number, nowUs: number, served: boolean): void {
    const waiting = this.#waiting[at] as Waiting;
    const last = this.#waiting.pop() as Waiting;
    if (last !== waiting) this.#waiting[at] = last;
    this.#spare.push(waiting);
    const tookUs = Math.max(0, nowUs - waiting.sinceUs);
    const { row } = waiting;
    this.#numbers[row + Row.blockedUs] = (this.#numbers[row + Row.blockedUs] as number) + tookUs;
    this.#numbers[row + Row.since] = 0;
    if (!served) return;
    this.#add(Counter.count + bucketOf(tookUs), 1);
    if (tookUs > (this.#numbers[Counter.worstUs] as number)) this.#numbers[Counter.worstUs] = tookUs;
  }

  #rowOf(thread: number): number {
    const numbers = this.#numbers;
    for (let row = ROWS; row < NUMBERS; row += Row.count) {
      if ((numbers[row + Row.faults] as number) > 0 && numbers[row + Row.thread] !== thread) continue;
      numbers[row + Row.thread] = thread;
      return row;
    }
    return NUMBERS - Row.count;
  }

  #add(at: number, count: number): void {
    this.#numbers[at] = (this.#numbers[at] as number) + count;
  }
}

/** The element of the distribution that counts a fault of `us` microseconds. */
export function bucketOf(us: number): number {
  return us < 2 ? 0 : Math.min(LATENCY_BUCKETS - 1, 31 - Math.clz32(Math.min(us, 2 ** 31)));
}

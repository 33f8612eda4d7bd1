import { noTotals, type PageChannelTotals } from '@godwit/core/pages';

/** The counters, in their order; times are in microseconds. */
const NAMES = [
  'raw',
  'zero',
  'hole',
  'delta',
  'compressed',
  'savedBytes',
  'scanMs',
  'ranMs',
  'waitedMs',
] as const satisfies readonly (keyof PageChannelTotals)[];
const WIRE = NAMES.length;

const isTime = (name: keyof PageChannelTotals): boolean => name.endsWith('Ms');

/** The counters of what a channel's thread has sent so far, in memory that the main thread can read at any time. */
export class ChannelCounters {
  readonly storage: SharedArrayBuffer;
  readonly #numbers: BigInt64Array;

  /** Makes counters that are all zero, or opens those in `storage`, which another thread writes. */
  constructor(storage = new SharedArrayBuffer((WIRE + 1) * BigInt64Array.BYTES_PER_ELEMENT)) {
    this.storage = storage;
    this.#numbers = new BigInt64Array(storage);
  }

  /** Stores the thread's totals. */
  store(totals: Readonly<PageChannelTotals>, wireBytes: number): void {
    for (const [at, name] of NAMES.entries()) {
      Atomics.store(this.#numbers, at, BigInt(Math.round(totals[name] * (isTime(name) ? 1000 : 1))));
    }
    Atomics.store(this.#numbers, WIRE, BigInt(wireBytes));
  }

  get totals(): PageChannelTotals {
    const totals = noTotals();
    for (const [at, name] of NAMES.entries()) {
      totals[name] = Number(Atomics.load(this.#numbers, at)) / (isTime(name) ? 1000 : 1);
    }
    return totals;
  }

  /** Bytes that the stream has written, framing included. */
  get wireBytes(): number {
    return Number(Atomics.load(this.#numbers, WIRE));
  }
}

/**
 * How fast a guest writes: bytes per second (each write counts a whole guest page), or guest pages per second. A page that is written
 * twice counts twice, so that fewer distinct pages become dirty.
 */
export type WriteRate = number | { readonly pagesPerSecond: number };

/** Part of guest memory. */
interface Region {
  /** Bytes of the working set. Default: all populated memory from `offset` on. */
  readonly bytes?: number;
  /** The beginning of the working set, in bytes from the start of RAM. Default 0. */
  readonly offset?: number;
}

/**
 * The writes of a guest. All times are those of the guest's own clock: it stands still while the guest is paused, and runs slower by
 * the throttle's fraction, so that a guest that is throttled for half of its time writes half as much, and its phases take twice as
 * long.
 */
export type Workload =
  /** Writes nothing. */
  | { readonly kind: 'idle' }
  /** Writes pages of its working set at random, each as likely as any other. */
  | ({ readonly kind: 'uniform'; readonly rate: WriteRate } & Region)
  /** A working set with a hot part: `hotShare` (default 0.9) of the writes go to its first `hotBytes` (default: a tenth of it). */
  | ({
      readonly kind: 'hot';
      readonly rate: WriteRate;
      readonly hotBytes?: number;
      readonly hotShare?: number;
    } & Region)
  /** Writes page after page of its working set, and again from the beginning: QEMU's test guest, with 100 MiB from 1 MiB on. */
  | ({ readonly kind: 'sweep'; readonly rate: WriteRate } & Region)
  /**
   * A measured working set: how many distinct bytes became dirty in time windows of different lengths. It is turned into parts that
   * are rewritten at different rates (`curve.ts`). Windows in ascending order.
   */
  | {
      readonly kind: 'curve';
      readonly points: readonly { readonly windowMs: number; readonly bytes: number }[];
      readonly offset?: number;
    }
  /** Workloads one after the other: with `repeat` they begin again after the last one, else the last one goes on. */
  | {
      readonly kind: 'phases';
      readonly phases: readonly { readonly lastMs: number; readonly workload: Workload }[];
      readonly repeat?: boolean;
    }
  /** `burst` for `lastMs` at the end of each `everyMs`; `between` (default: idle) in the rest of the time. */
  | {
      readonly kind: 'bursts';
      readonly everyMs: number;
      readonly lastMs: number;
      readonly burst: Workload;
      readonly between?: Workload;
    }
  /** A recorded trace: with `repeat` it begins again after its end, else the guest is idle then. */
  | {
      readonly kind: 'trace';
      readonly writes: Iterable<TraceEntry>;
      /** Bytes of the trace's pages. Default 4,096. */
      readonly pageSize?: number;
      readonly repeat?: boolean;
    }
  /** All workloads at the same time. */
  | { readonly kind: 'together'; readonly workloads: readonly Workload[] };

/** The guest has written `count` pages from `firstPage` on, `ms` milliseconds after the start. In ascending order of time. */
export interface TraceEntry {
  readonly ms: number;
  readonly firstPage: number;
  readonly count: number;
}

/** Statistics of the page faults of a guest that runs before its memory is whole. Times are in microseconds. */
export interface FaultStatus {
  /** Pages that have not come yet. */
  readonly pagesMissing: number;
  /** All pages that were missing at the start. */
  readonly pagesTotal: number;
  /** Threads that waited for a page, one count each time. */
  readonly faults: number;
  /** Faults a second, since the last `status()` that was at least 100 ms ago. */
  readonly faultsPerSecond: number;
  /** The number of `faults` on a page that was never written at the source, and is zero. */
  readonly zeroFaults: number;
  /** Pages that came although they were already in memory, and were dropped. */
  readonly duplicatePages: number;
  /**
   * How long faults have taken, from when the serving thread knew of them until the page was there: element n counts those of 2^n to
   * 2^(n+1) us, the first those below 2 us (QEMU: `postcopy-latency-dist`).
   */
  readonly latencyDistribution: readonly number[];
  /** The longest time of a fault. */
  readonly worstLatencyUs: number;
  /**
   * The total time for which each thread has waited for pages, the present wait included (QEMU: `postcopy-vcpu-blocktime`). `thread` is
   * the kernel's id of a thread; 0 for all threads where the kernel does not report it.
   */
  readonly blocked: readonly { readonly thread: number; readonly faults: number; readonly blockedUs: number }[];
  /** The longest present wait of a thread for a page, or of the serving thread for the rest of an answer; 0 when none waits. */
  readonly waitingUs: number;
  /** Pages that cannot be had; threads that wait for them go on waiting. */
  readonly pagesLost: number;
  /** Milliseconds until all pages are there, at the rate so far; undefined while that rate is unknown. */
  readonly remainingMs: number | undefined;
}

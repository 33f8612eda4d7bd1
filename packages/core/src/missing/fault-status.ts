/** How the page faults of a guest that runs before its memory is whole have gone so far. Times are in microseconds. */
export interface FaultStatus {
  /** Pages that have not come yet. */
  readonly pagesMissing: number;
  /** Pages that had to come in all. */
  readonly pagesTotal: number;
  /** Threads that waited for a page, one count each time. */
  readonly faults: number;
  /** Faults a second, since the last `status()` that was at least 100 ms ago. */
  readonly faultsPerSecond: number;
  /** Of `faults`: the page was never written at the source, and is zero. */
  readonly zeroFaults: number;
  /** Pages that came when they were there already, and were dropped. */
  readonly duplicatePages: number;
  /**
   * How long faults have taken, from when the serving thread knew of them until the page was there: element n counts those of 2^n to
   * 2^(n+1) us, the first those below 2 us (QEMU: `postcopy-latency-dist`).
   */
  readonly latencyDistribution: readonly number[];
  /** The longest of them. */
  readonly worstLatencyUs: number;
  /**
   * For how long each thread has waited for pages in all, the one under way included (QEMU: `postcopy-vcpu-blocktime`). `thread` is the
   * kernel's id of a thread; 0 for all of them where the kernel does not tell.
   */
  readonly blocked: readonly { readonly thread: number; readonly faults: number; readonly blockedUs: number }[];
  /** For how long that thread has waited which waits longest now; 0 when none waits. */
  readonly waitingUs: number;
  /** Pages that cannot be had: those who wait for them go on waiting. */
  readonly pagesLost: number;
  /** Milliseconds until all pages are there, at the rate so far; undefined while that is unknown. */
  readonly remainingMs: number | undefined;
}

/** The progress of a background snapshot. Times are in microseconds. */
export interface ProtectionStatus {
  /** Pages whose contents at the moment of the snapshot are still only in guest memory. */
  readonly pagesLeft: number;
  /** Pages that the guest had populated at the moment of the snapshot, all of which are to be saved; 0 before that moment. */
  readonly pagesTotal: number;
  /** Of these, the pages that were copied because they, or a neighbour, were about to be written. */
  readonly pagesCopied: number;
  /** Bytes that were written to the `PageTarget`; zero pages take none. */
  readonly writtenBytes: number;
  /** Threads that waited to write a protected page, one count each time, since the protection began. */
  readonly faults: number;
  /** Faults a second, since the last `status()` that was at least 100 ms ago. */
  readonly faultsPerSecond: number;
  /** The number of `faults` that waited for room in the buffer. */
  readonly faultsWithoutRoom: number;
  /**
   * How long faults have taken, from when the serving thread knew of them until the page could be written: element n counts those of 2^n
   * to 2^(n+1) us, the first those below 2 us. The same buckets as `FaultStatus.latencyDistribution`.
   */
  readonly latencyDistribution: readonly number[];
  /** The longest time of a fault. */
  readonly worstLatencyUs: number;
  /**
   * The total time for which each thread has waited, the present fault included. `thread` is the kernel's id of the thread; 0 where the
   * kernel does not report it.
   */
  readonly blocked: readonly { readonly thread: number; readonly faults: number; readonly blockedUs: number }[];
  /** The size of the buffer for copies that are not written yet, its part in use, and the largest part that was in use. Bytes. */
  readonly bufferBytes: number;
  readonly bufferedBytes: number;
  readonly bufferHighBytes: number;
}

/** The result of a background snapshot. Times are milliseconds of the source's clock. */
export interface BackgroundReport {
  /** How long the guest was paused: from the call of `pause` until it ran again; `MigrationSummary.downtimeMs`. */
  readonly pausedMs: number;
  /**
   * Parts of `pausedMs`: until all vCPUs had stopped, to save the devices, and to protect the pages that were written since the first
   * protection.
   */
  readonly stopMs: number;
  readonly devicesMs: number;
  readonly freezeMs: number;
  /** The rest of `pausedMs`, until the guest ran. */
  readonly resumeMs: number;
  /** How long it took to protect all memory, before the pause, with the guest running. */
  readonly protectMs: number;
  /** From the end of the pause until every page was saved and the protection lifted. */
  readonly savingMs: number;
  /** Pages that were protected with the guest paused, because they were written or populated since the first protection. */
  readonly pagesFrozen: number;
  readonly protection: ProtectionStatus;
}

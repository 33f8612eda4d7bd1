/** How a background snapshot goes. Times are in microseconds. */
export interface ProtectionStatus {
  /** Pages whose contents at the moment of the snapshot are still only in guest memory. */
  readonly pagesLeft: number;
  /** Pages that the guest had populated at that moment: all that are to be saved. 0 before it. */
  readonly pagesTotal: number;
  /** Of these: pages that were copied because somebody was about to write them, with their neighbours. */
  readonly pagesCopied: number;
  /** Bytes that were written to where the snapshot goes: zero pages take none. */
  readonly writtenBytes: number;
  /** Threads that waited to write a protected page, one count each time, since the protection began. */
  readonly faults: number;
  /** Faults a second, since the last `status()` that was at least 100 ms ago. */
  readonly faultsPerSecond: number;
  /** Of `faults`: those that waited for room in the buffer. */
  readonly faultsWithoutRoom: number;
  /**
   * How long faults have taken, from when the serving thread knew of them until the page could be written: element n counts those of 2^n
   * to 2^(n+1) us, the first those below 2 us. The same buckets as `FaultStatus.latencyDistribution`.
   */
  readonly latencyDistribution: readonly number[];
  /** The longest of them. */
  readonly worstLatencyUs: number;
  /** For how long each thread has waited in all, the fault under way included. `thread` is the kernel's id; 0 where it does not tell. */
  readonly blocked: readonly { readonly thread: number; readonly faults: number; readonly blockedUs: number }[];
  /** Size of the buffer for copies that are not written yet, what of it is in use, and the most that was. Bytes. */
  readonly bufferBytes: number;
  readonly bufferedBytes: number;
  readonly bufferHighBytes: number;
}

/** The result of a background snapshot. Times are milliseconds of the source's clock. */
export interface BackgroundReport {
  /** How long the guest was paused: from the call of `pause` until it ran again; `MigrationSummary.downtimeMs`. */
  readonly pausedMs: number;
  /** Of these: until all vCPUs had stopped, to save the devices, and to protect what was written since the first protection. */
  readonly stopMs: number;
  readonly devicesMs: number;
  readonly freezeMs: number;
  /** The rest: until the guest ran. */
  readonly resumeMs: number;
  /** How long it took to protect all memory, before the pause, with the guest running. */
  readonly protectMs: number;
  /** From the end of the pause until every page was saved and the protection lifted. */
  readonly savingMs: number;
  /** Pages that were protected again with the guest paused: those that were written, or populated, since they were protected. */
  readonly pagesFrozen: number;
  readonly protection: ProtectionStatus;
}

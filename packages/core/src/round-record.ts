/** What to do when a round has been sent and the next one's dirty pages are known. */
export type Decision =
  /** Send another round with the guest running. */
  | { readonly action: 'continue'; readonly reason: string }
  /** Pause the guest and send what is left; with `force` for as long as it takes, else within `pauseLimitMs`. */
  | { readonly action: 'switchover'; readonly reason: string; readonly force?: boolean }
  /** Give up: the migration fails with `GODWIT_NOT_CONVERGING` and the guest runs on at the source. */
  | { readonly action: 'abort'; readonly reason: string };

/** Pages of a round by what became of them. */
export interface PagesByKind {
  /** Sent with their contents. */
  readonly raw: number;
  /** Had memory behind them, and every byte was zero. */
  readonly zero: number;
  /** Had no memory behind them; never read. */
  readonly hole: number;
  /** Sent as what has changed since they were sent last. */
  readonly delta: number;
  /** Sent compressed. */
  readonly compressed: number;
}

/** None of any kind, to add to. */
export function noPages(): { -readonly [Kind in keyof PagesByKind]: number } {
  return { raw: 0, zero: 0, hole: 0, delta: 0, compressed: 0 };
}

/** All of them, of whatever kind. */
export function allPages(pages: PagesByKind): number {
  return pages.raw + pages.zero + pages.hole + pages.delta + pages.compressed;
}

/**
 * What one dirty tracker reported. Trackers may report the same pages: the sum over all of them is not what is dirty.
 * With it a migration that does not converge shows why: a tracker that is not exact and reports every page each time
 * (VFIO type1 over an IOMMU does) is never done, however little the guest writes.
 */
export interface TrackerHarvest {
  /** `DirtyTracker.name`. */
  readonly name: string;
  readonly dirtyPages: number;
  /** False when pages may be among them that nobody wrote: `DirtyTracker.exact`. */
  readonly exact: boolean;
  /** True when it failed, and every page counts as dirty. */
  readonly failed: boolean;
}

/** Terms that make up the downtime, in milliseconds; they add up to it. */
export interface DowntimeTerms {
  /** Stopping the vCPUs. */
  readonly pauseMs: number;
  /** Collecting dirty bitmaps with the guest stopped: before and after device state is saved. */
  readonly harvestMs: number;
  /** The remaining RAM, in encoded wire bytes over the link's rate. */
  readonly ramMs: number;
  /** Saving and sending device state. */
  readonly deviceMs: number;
  /** Loading device state at the destination. */
  readonly loadMs: number;
  /** Messages to and fro: `switchover`/`ready` and `go`/`running`, without the work in between. */
  readonly roundTripMs: number;
  /** Starting the vCPUs at the destination. */
  readonly resumeMs: number;
}

/** One pre-copy round, or the final stop-and-copy. All times are milliseconds of the source's monotonic clock. */
export interface RoundRecord {
  /** From 1. */
  readonly round: number;
  readonly phase: 'pre-copy' | 'stop-and-copy';
  /** Pages that this round set out to send. */
  readonly dirtyPages: number;
  readonly pages: PagesByKind;
  /** Guest bytes that the round's pages stand for (of all kinds). */
  readonly rawBytes: number;
  /** Bytes on the wire, framing included. */
  readonly wireBytes: number;
  /** Bytes that deltas and compression have taken off the contents of pages. */
  readonly savedBytes: number;
  /** Collecting the dirty bitmaps that this round sent. */
  readonly harvestMs: number;
  /** Walking bitmaps and looking for zero pages. */
  readonly scanMs: number;
  /** Waiting for the link, the acknowledgement of the round included. */
  readonly sendMs: number;
  /** Waiting for our own bandwidth limit. */
  readonly limitMs: number;
  readonly totalMs: number;
  /** Bytes per second of the link by itself, learned over rounds: without scanning, and without our own limit. */
  readonly linkBytesPerSecond: number;
  /** Pages that became dirty while this round was sent. */
  readonly newlyDirtyPages: number;
  /** The same by tracker, in the order of `MigratableVm.trackers`. */
  readonly trackers: readonly TrackerHarvest[];
  /** Newly dirty pages per second. */
  readonly dirtyPagesPerSecond: number;
  /** Downtime if the guest were paused now. */
  readonly predictedDowntimeMs: number;
  readonly prediction: DowntimeTerms;
  readonly decision: Decision;
}

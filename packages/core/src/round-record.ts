/**
 * What a policy decides; `reason` is for people. A decision that does not end pre-copy is carried out at once, and holds until the next
 * one of its kind.
 */
export type Decision =
  /** Send another round with the guest running. */
  | { readonly action: 'continue'; readonly reason: string }
  /**
   * Pause the guest and send the rest, within `pauseLimitMs`, or with `force` without a limit. `downtimeLimitMs` is the limit that this
   * attempt is held to, where a policy raises it step by step: the last harvest is compared with it, and the pause is bounded by twice
   * this limit (at least 500 ms) where `pauseLimitMs` is not given. Default: that of the migration. Milliseconds.
   */
  | {
      readonly action: 'switchover';
      readonly reason: string;
      readonly force?: boolean;
      readonly downtimeLimitMs?: number;
    }
  /** Switch over with `force`, whatever the downtime. */
  | { readonly action: 'force'; readonly reason: string }
  /** Go on, with vCPUs that are held back for this share of their time, from 0 to 0.99, until another such decision. */
  | { readonly action: 'throttle'; readonly reason: string; readonly fraction: number }
  /** Go on, with another `bandwidthLimit` in bytes per second, until `adjust` sets one; 0: no limit. */
  | { readonly action: 'bandwidth'; readonly reason: string; readonly bytesPerSecond: number }
  /**
   * Run the guest at the destination and send the rest afterwards: the migration fails with `GODWIT_UNSUPPORTED` unless
   * `PolicyInput.canPostcopy`.
   */
  | { readonly action: 'postcopy'; readonly reason: string }
  /** Give up: the migration fails with `GODWIT_NOT_CONVERGING` and the guest runs on at the source. */
  | { readonly action: 'abort'; readonly reason: string };

/** Numbers of pages by how they were sent. */
export interface PagesByKind {
  /** Sent with their contents. */
  readonly raw: number;
  /** Populated, and every byte was zero. */
  readonly zero: number;
  /** Not populated; never read. */
  readonly hole: number;
  /** Sent as the bytes that have changed since they were last sent. */
  readonly delta: number;
  /** Sent compressed. */
  readonly compressed: number;
}

/** Returns counts of zero for all kinds; the caller may add to the result. */
export function noPages(): { -readonly [Kind in keyof PagesByKind]: number } {
  return { raw: 0, zero: 0, hole: 0, delta: 0, compressed: 0 };
}

/** The sum of all kinds. */
export function allPages(pages: PagesByKind): number {
  return pages.raw + pages.zero + pages.hole + pages.delta + pages.compressed;
}

/** How one vCPU dirtied memory between two harvests. */
export interface VcpuDirtying {
  /** Pages logged per second: a page counts again when it is written after it was re-armed, or by an instruction that KVM emulates. */
  readonly dirtyPagesPerSecond: number;
  /** How often the vCPU had to leave the guest and wait because its dirty ring was full. */
  readonly ringFull: number;
}

/**
 * The report of one dirty tracker at a harvest. Several trackers may report the same page, so that their sum is not the number of dirty
 * pages. The report shows why a migration does not converge: an inexact tracker that reports every page at each harvest (VFIO type1 over
 * an IOMMU does) keeps every page dirty, however little the guest writes.
 */
export interface TrackerHarvest {
  /** `DirtyTracker.name`. */
  readonly name: string;
  readonly dirtyPages: number;
  /** False when the report may include pages that were not written: `DirtyTracker.exact`. */
  readonly exact: boolean;
  /** True when the tracker failed, so that every page counts as dirty. */
  readonly failed: boolean;
  /** The writers that the tracker cannot see, in words: `DirtyTracker.blindSpots`. */
  readonly blindSpots?: string;
  /** How each vCPU dirtied memory since the harvest before, where the tracker knows (a dirty ring does): `DirtyTracker.vcpus`. */
  readonly vcpus?: readonly VcpuDirtying[];
}

/** The terms of the downtime, in milliseconds; the downtime is their sum. */
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
  /** Two round trips: `switchover`/`ready` and `go`/`running`, without the work in between. */
  readonly roundTripMs: number;
  /** Starting the vCPUs at the destination. */
  readonly resumeMs: number;
}

/** For each term of the downtime, the interval that contains the actual time in nine cases of ten. Milliseconds. */
export type DowntimeRanges = Readonly<Record<keyof DowntimeTerms, readonly [low: number, high: number]>>;

/** One pre-copy round, or the final stop-and-copy. All times are milliseconds of the source's monotonic clock. */
export interface RoundRecord {
  /** From 1. */
  readonly round: number;
  readonly phase: 'pre-copy' | 'stop-and-copy';
  /** Pages that this round had to send. */
  readonly dirtyPages: number;
  /** Dirty pages that this round left for later, since the guest dirties them in every round: `MigrateOptions.hotPagesLast`. */
  readonly deferredPages: number;
  readonly pages: PagesByKind;
  /** Bytes of guest memory in the round's pages, of all kinds. */
  readonly rawBytes: number;
  /**
   * Bytes that the source has written on all streams from the round's beginning to the decision after it: pages, device state, control
   * frames, framing included. For a stop-and-copy the time ends when the devices are saved.
   */
  readonly wireBytes: number;
  /** The part of `wireBytes` that is device state, framing not included. */
  readonly deviceBytes: number;
  /** Bytes that deltas and compression have saved. */
  readonly savedBytes: number;
  /** Time to harvest the dirty bitmaps that this round sent. */
  readonly harvestMs: number;
  /** Time to walk the bitmaps and classify pages. */
  readonly scanMs: number;
  /** Time waiting for the link, the acknowledgement of the round included. */
  readonly sendMs: number;
  /** Time in which pages and device state waited for `bandwidthLimit`. */
  readonly limitMs: number;
  readonly totalMs: number;
  /**
   * When the round was over, counted from the start of the migration. Rounds of a guest that writes little are up to a second apart, and a
   * link may have been lost in between, so that this is not the sum of `totalMs`.
   */
  readonly endedAtMs: number;
  /** The share of time for which vCPUs were held back during this round, from 0 to 0.99. */
  readonly throttle: number;
  /** The link's own rate, learned over rounds: without scanning, and without `bandwidthLimit`. */
  readonly linkBytesPerSecond: number;
  /** Pages that are owed after the round: pages that became dirty while the round was sent, and pages that the round left for later. */
  readonly newlyDirtyPages: number;
  /** The reports of the trackers at the harvest after the round, in the order of `MigratableVm.trackers`. */
  readonly trackers: readonly TrackerHarvest[];
  /** Pages that became dirty in a second, at the harvest after the round. */
  readonly dirtyPagesPerSecond: number;
  /** Predicted downtime if the guest were paused now: the median, which is compared with the limit. */
  readonly predictedDowntimeMs: number;
  /**
   * The interval that contains the downtime in nine cases of ten, if the guest were paused now. It is narrower than the sum of the terms'
   * intervals, since not all of them are long at once.
   */
  readonly predictedDowntimeRangeMs: readonly [low: number, high: number];
  readonly prediction: DowntimeTerms;
  /** For each term, the interval that contains the actual time in nine cases of ten: wide where nothing was learned. */
  readonly predictionRange: DowntimeRanges;
  readonly decision: Decision;
}

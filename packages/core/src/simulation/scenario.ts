import type { Workload } from './workload/workload.js';

/**
 * A migration to simulate: the guest, the hosts and the link between them. All of it is plain data, except for a recorded trace, which
 * may be any iterable.
 *
 * @example
 * const scenario: Scenario = {
 *   memory: { bytes: 512 * 2 ** 30 },
 *   workload: { kind: 'uniform', rate: 2e9, bytes: 40 * 2 ** 30 },
 *   link: { bytesPerSecond: 25e9 / 8 },
 * };
 */
export interface Scenario {
  readonly memory: MemoryScenario;
  /** The guest's writes. */
  readonly workload: Workload;
  readonly link: LinkScenario;
  /** The devices beside RAM. Default: `DEFAULT_DEVICES`. */
  readonly devices?: readonly DeviceScenario[];
  readonly host?: HostScenario;
  readonly encoding?: EncodingScenario;
  /** False for a VMM that cannot throttle its vCPUs. Default true. */
  readonly canThrottle?: boolean;
}

/** A simulated guest's memory. Bytes. */
export interface MemoryScenario {
  /** All RAM of the guest, in bytes. */
  readonly bytes: number;
  /** The RAM that has memory behind it, in bytes: the rest of RAM is never read or sent. Default: all. */
  readonly populatedBytes?: number;
  /** The share, from 0 to 1, of zero pages among the populated pages that the workload does not write. Default 0. */
  readonly zeroShare?: number;
  /** Bytes of a guest page. Default 4,096. */
  readonly pageSize?: number;
}

/** The state of the link from a moment on; fields that are left out keep their values. */
export interface LinkChange {
  /** Milliseconds since the start of the migration. */
  readonly atMs: number;
  readonly bytesPerSecond?: number;
  readonly latencyMs?: number;
  readonly jitterMs?: number;
}

/** A simulated link: rate, latency, and when it changes or breaks. */
export interface LinkScenario {
  /** Bytes per second of each direction; all streams share it. */
  readonly bytesPerSecond: number;
  /** Milliseconds from one end to the other, besides the time that bytes take. Default 0.1. */
  readonly latencyMs?: number;
  /** Each frame's latency is longer by a random time below this. Frames of a stream keep their order. Default 0. */
  readonly jitterMs?: number;
  /** Page channels. Default 1. */
  readonly channels?: number;
  /** Most bytes per second of one page channel: what one stream, or one core, is able to. Default: no limit of its own. */
  readonly channelBytesPerSecond?: number;
  /** In ascending order. */
  readonly changes?: readonly LinkChange[];
  /** Times at which the link is cut, and for how long no new connection can be made. In ascending order. */
  readonly cuts?: readonly { readonly atMs: number; readonly lastMs: number }[];
}

/** A simulated device: how much state it has, and how fast it saves and loads it. */
export interface DeviceScenario {
  readonly id: string;
  /** Bytes of state that are saved while the guest is paused. */
  readonly bytes: number;
  /** Bytes of state that the device can send while the guest runs (VFIO PRE_COPY). Default 0: none. */
  readonly precopyBytes?: number;
  /** How fast state that was sent while the guest ran is out of date again, in bytes per second; at most `precopyBytes` is. Default 0. */
  readonly dirtyBytesPerSecond?: number;
  /** Time that `save` takes besides its bytes. Milliseconds; default 0. */
  readonly saveMs?: number;
  /** How fast the device yields its state. Default: at once. */
  readonly saveBytesPerSecond?: number;
  /** Time that `load` takes at the destination besides its bytes. Milliseconds; default 0. */
  readonly loadMs?: number;
  /** How fast the device takes its state at the destination. Default: at once. */
  readonly loadBytesPerSecond?: number;
  /** Whether the device is saved and loaded at the same time as its neighbours that are `parallel` too. Default false. */
  readonly parallel?: boolean;
}

/** The times that the two hosts take, apart from the link. The defaults are those of `DEFAULT_HOST`. */
export interface HostScenario {
  /** Making the VM at the destination, before its first page is sent. Milliseconds. */
  readonly prepareMs?: number;
  /** Stopping the vCPUs, in milliseconds. */
  readonly pauseMs?: number;
  /** Running them at the destination, in milliseconds. */
  readonly resumeMs?: number;
  /** The time of a page fault at the destination apart from the link, once the guest runs there by post-copy. Milliseconds. */
  readonly faultMs?: number;
  /** Collecting the dirty bitmaps, whatever is dirty: milliseconds of each harvest. */
  readonly harvestMs?: number;
  /** The same for each GiB of RAM, for trackers that copy whole bitmaps: four passes over 32 KiB take about 0.03 ms. Milliseconds. */
  readonly harvestMsPerGiB?: number;
  /** The same for each dirty guest page, in nanoseconds. */
  readonly harvestNsPerPage?: number;
  /** How fast a page channel scans pages and encodes them, in bytes of guest memory per second. Default: at once. */
  readonly scanBytesPerSecond?: number;
}

/** How many bytes pages take on the wire. Zero pages take none. */
export interface EncodingScenario {
  /** The share, from 0 to 1, of pages sent again that are sent as deltas. Default 0. */
  readonly deltaShare?: number;
  /** The bytes of a delta, as a share of the page. Default 0.25. */
  readonly deltaRatio?: number;
  /** The bytes of all other pages, as a share of the page: a value below 1 means compression. Default 1. */
  readonly compressedRatio?: number;
}

/**
 * Times of the hosts where a scenario has none. `pauseMs`: 0.26 to 0.52 ms measured for a vCPU thread in KVM_RUN. `harvestMs` and
 * `harvestNsPerPage`: KVM_GET_DIRTY_LOG of 65,536 pages took 0.06 ms (none dirty) to 0.21 ms (all). `resumeMs`: measured on a guest with
 * two vCPUs. `faultMs`: with both ends on one host, a fault took 0.04 to 0.05 ms in the median, the link included.
 */
export const DEFAULT_HOST = {
  prepareMs: 0,
  pauseMs: 0.5,
  resumeMs: 2,
  faultMs: 0.05,
  harvestMs: 0.06,
  harvestMsPerGiB: 0,
  harvestNsPerPage: 2.3,
  scanBytesPerSecond: Number.POSITIVE_INFINITY,
} as const satisfies Required<HostScenario>;

/** The devices of a scenario that names none: vCPUs and interrupt controllers, as a guest with two vCPUs has them. */
export const DEFAULT_DEVICES: readonly DeviceScenario[] = [{ id: 'machine', bytes: 64 * 1024, saveMs: 1, loadMs: 5 }];

/** Bytes of a guest page where the scenario has no `pageSize`. */
export const GUEST_PAGE_BYTES = 4096;

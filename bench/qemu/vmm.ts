import type { Sweep } from '@godwit/example-node-vmm/guest';

/** The guest that is booted: the sweep guest, on one vCPU. */
export interface GuestSpec {
  readonly memoryBytes: number;
  readonly sweep: Required<Sweep>;
  /** Whether all memory from 1 MiB on is filled with random bytes before the guest starts; otherwise it is all holes. */
  readonly random: boolean;
  /**
   * Whether the guest's memory is a memory file that other processes can map, as node-vmm's always is; otherwise it is the VMM's
   * default.
   */
  readonly memoryFile: boolean;
}

/** Bytes of pages that a source keeps for deltas: a power of two that is larger than all pages that the guest writes. */
export const DELTA_CACHE_BYTES = 256 * 2 ** 20;

/** The settings of a migration or a snapshot. */
export interface MoveSettings {
  /**
   * Number of page channels, each with its own thread; 0: pages are sent on the main stream; `auto`: what the VMM does by default (QEMU:
   * 0).
   */
  readonly channels: number | 'auto';
  readonly downtimeLimitMs: number;
  /** The bandwidth limit while the guest runs; 0 is no limit. */
  readonly bytesPerSecond: number;
  /** Whether pages are sent as deltas (QEMU: XBZRLE). */
  readonly deltas: boolean;
  /**
   * The limit, in bytes per second, for pages that are not urgent, in a migration by post-copy from the start, with a thread for urgent
   * pages on a channel of its own (QEMU: postcopy-preempt); 0: no limit. Undefined: by pre-copy.
   */
  readonly postcopyBytesPerSecond?: number;
  /** How long both main threads are blocked, again and again, in milliseconds; Godwit only. Default 0. */
  readonly blockedMs?: number;
}

/** How long a migration may run before its downtime limit is raised, and the new limit. Milliseconds. */
export interface Patience {
  readonly budgetMs: number;
  readonly thenDowntimeLimitMs: number;
}

/** A migration as its source reports it. Times of day are milliseconds since 1970. */
export interface Departure {
  /** When the source was told to begin. */
  readonly startedAtMs: number;
  /** When the guest was paused for the last time. */
  readonly pausedAtMs: number;
  /** How often the guest was paused. */
  readonly pauses: number;
  /** False when the budget was used up and the downtime limit was raised. */
  readonly endedByItself: boolean;
  readonly saidTotalMs: number;
  readonly saidDowntimeMs: number;
  /** The last prediction of the downtime before the pause, or before the limit was raised. */
  readonly predictedDowntimeMs: number | undefined;
  readonly wireBytes: number;
}

/** A process that has a guest, or waits for one. */
export interface VmmProcess {
  /** Resolves when the guest has printed the letter in this process. */
  printed(letter: string): Promise<void>;
  /** Listens for a guest; resolves with the TCP port on 127.0.0.1. */
  listen(settings: MoveSettings): Promise<number>;
  /** Migrates the guest to a port on 127.0.0.1; resolves when the migration is complete. */
  send(port: number, settings: MoveSettings, patience: Patience): Promise<Departure>;
  /** Resolves with the time at which the guest began to run here, in milliseconds since 1970. */
  arrival(): Promise<number>;
  /**
   * After a migration by post-copy to here: how many page faults took 2^n to 2^(n+1) microseconds, for each n, as the VMM has counted them.
   */
  faultLatencies(): Promise<readonly number[]>;
  /** How many pages the guest sweeps in a millisecond; missing if the VMM cannot measure this. */
  speed?(): Promise<number>;
  /** Resolves with the time at which the guest first reached `speed` here; resolves only once all of its memory is here. */
  reaches?(speed: number): Promise<number>;
  /** Saves the guest to a new file; resolves when the VMM reports that it is done. */
  save(path: string, settings: MoveSettings): Promise<void>;
  /** Loads a guest from a file of `save`; `arrival` resolves when it runs. */
  restore(path: string, settings: MoveSettings): Promise<void>;
  /** Pauses the guest; resolves with the first byte of each page that it sweeps. */
  firstBytes(): Promise<Uint8Array>;
  /** Ends the process. Idempotent. */
  close(): Promise<void>;
}

export interface Vmm {
  /** Its name, with the version. */
  readonly name: string;
  /** Starts a process with a running guest. */
  boot(spec: GuestSpec): Promise<VmmProcess>;
  /** Starts a process with an empty machine for such a guest, for `listen` or `restore`. */
  empty(spec: GuestSpec): Promise<VmmProcess>;
}

/** Milliseconds since 1970 now, to the microsecond. */
export function now(): number {
  return performance.timeOrigin + performance.now();
}

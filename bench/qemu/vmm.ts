import type { Sweep } from '@godwit/example-node-vmm/guest';

/** The guest that is booted: the sweep guest, on one vCPU. */
export interface GuestSpec {
  readonly memoryBytes: number;
  readonly sweep: Required<Sweep>;
  /** All memory from 1 MiB on holds random bytes before the guest starts; otherwise it has never been touched. */
  readonly random: boolean;
  /**
   * The guest's memory is a memory file that other processes may map, as node-vmm's always is; otherwise it is of the kind
   * that the VMM takes by itself.
   */
  readonly memoryFile: boolean;
}

/** How a guest is moved or saved. */
export interface MoveSettings {
  /** Streams for pages beside the main one, each with a thread of its own. 0: everything on the main one. */
  readonly channels: number;
  readonly downtimeLimitMs: number;
  /** The source's limit while the guest runs; 0 is no limit. */
  readonly bytesPerSecond: number;
  /** Pages as what has changed in them: XBZRLE, or deltas. */
  readonly deltas: boolean;
}

/** How long a migration may go on without an end in sight, before it is given another downtime limit. */
export interface Patience {
  readonly budgetMs: number;
  readonly thenDowntimeLimitMs: number;
}

/** A migration as its source saw it. Moments are milliseconds since 1970. */
export interface Departure {
  /** When the source was told to migrate. */
  readonly startedAtMs: number;
  /** When the guest stood still for the last time. */
  readonly pausedAtMs: number;
  /** How often the guest was made to stand still. */
  readonly pauses: number;
  /** False when the budget was used up and the downtime limit was raised. */
  readonly endedByItself: boolean;
  readonly saidTotalMs: number;
  readonly saidDowntimeMs: number;
  /** The downtime as expected last before the pause, or before the limit was raised. */
  readonly predictedDowntimeMs: number | undefined;
  readonly wireBytes: number;
}

/** A process that has a guest, or waits for one. */
export interface VmmProcess {
  /** Resolves when the guest has printed the letter in this process. */
  printed(letter: string): Promise<void>;
  /** Waits for a guest; the TCP port on 127.0.0.1. */
  listen(settings: MoveSettings): Promise<number>;
  /** Sends the guest to a port on 127.0.0.1; resolves when that is done. */
  send(port: number, settings: MoveSettings, patience: Patience): Promise<Departure>;
  /** When the guest began to run here: milliseconds since 1970. */
  arrival(): Promise<number>;
  /** Saves the guest into a new file; resolves when the VMM says that it is done. */
  save(path: string, settings: MoveSettings): Promise<void>;
  /** Loads a guest from a file that `save` made; `arrival` tells when it runs. */
  restore(path: string, settings: MoveSettings): Promise<void>;
  /** Stops the guest; the first byte of each page that it sweeps. */
  firstBytes(): Promise<Uint8Array>;
  /** Ends the process. Idempotent. */
  close(): Promise<void>;
}

export interface Vmm {
  /** With its version. */
  readonly name: string;
  /** A new process with a running guest. */
  boot(spec: GuestSpec): Promise<VmmProcess>;
  /** A new process with a machine for such a guest and nothing in it, for `listen` or `restore`. */
  empty(spec: GuestSpec): Promise<VmmProcess>;
}

/** Milliseconds since 1970 now, to the microsecond. */
export function now(): number {
  return performance.timeOrigin + performance.now();
}

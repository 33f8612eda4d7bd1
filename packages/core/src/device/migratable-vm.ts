import type { GuestMemory } from '../memory/guest-memory.js';
import type { DirtyTracker } from '../tracker/dirty-tracker.js';
import type { MigratableDevice } from './migratable-device.js';

/** What an embedder hands to the engine, on either side. */
export interface MigratableVm {
  readonly memory: GuestMemory;
  /** Together they must see every writer of guest memory. Used at the source only. */
  readonly trackers: readonly DirtyTracker[];
  /** Loaded at the destination in the order that the destination lists them. */
  readonly devices: readonly MigratableDevice[];
  /**
   * Stops all vCPUs and every other writer of guest memory. Once resolved nothing writes guest memory but devices'
   * `save`. Idempotent.
   */
  pause(): Promise<void>;
  /** Runs the guest: at the source after a failure or cancel, at the destination after `go`. Idempotent. */
  resume(): Promise<void>;
  /** Slows the vCPUs: 0 = full speed, 0.99 = nearly stopped. */
  throttle?(fraction: number): void;
  /** Destination only: the migration failed before `go`, the VM will never run; free what it holds. */
  abandon?(reason: Error): Promise<void>;
}

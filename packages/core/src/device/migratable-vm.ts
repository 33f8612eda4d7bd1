import type { GuestMemory } from '../memory/guest-memory.js';
import type { DirtyTracker } from '../tracker/dirty-tracker.js';
import type { MigratableDevice } from './migratable-device.js';

export type RunState = 'running' | 'paused' | 'ended';

/** What an embedder hands to the engine, on either side. */
export interface MigratableVm {
  readonly memory: GuestMemory;
  /** Together they must see every writer of guest memory. Used at the source only. */
  readonly trackers: readonly DirtyTracker[];
  /** Loaded at the destination in the order that the destination lists them. */
  readonly devices: readonly MigratableDevice[];
  /**
   * What the guest does now, as its user sees it: it travels, so that a paused guest stays paused, moved or not. `ended`: it
   * has shut down or crashed, and there is nothing to move. Without it the guest counts as running.
   */
  runState?(): RunState;
  /**
   * Stops all vCPUs and every other writer of guest memory. Once resolved nothing writes guest memory but devices'
   * `save`, and, until the first of these, an assigned device whose writes a tracker sees. When `signal` aborts first, undo
   * what was begun and settle: the guest then runs on as before (a `pause` that resolves all the same is followed by
   * `resume`). Nothing else is called before it has settled. Idempotent.
   */
  pause(signal?: AbortSignal): Promise<void>;
  /**
   * Runs the guest: at the source after a failure, a cancel or a stop-and-copy that was given up, at the destination after
   * `go`. Never called for a guest that its user had paused. Idempotent.
   */
  resume(): Promise<void>;
  /** Destination: resolves when the VM stands (its threads run, its memory is mapped), so that loading devices is quick. */
  prepared?(): Promise<void>;
  /** Slows the vCPUs: 0 = full speed, 0.99 = nearly stopped. */
  throttle?(fraction: number): void;
  /** Destination only: the migration failed before `go`, the VM will never run; free what it holds. */
  abandon?(reason: Error): Promise<void>;
}

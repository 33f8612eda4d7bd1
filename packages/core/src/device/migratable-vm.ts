import type { GuestMemory } from '../memory/guest-memory.js';
import type { DirtyTracker } from '../tracker/dirty-tracker.js';
import type { FreePages } from './free-pages.js';
import type { MigratableDevice } from './migratable-device.js';

/** What a guest does: it runs, its user has paused it, or it has shut down or crashed. */
export type RunState = 'running' | 'paused' | 'ended';

/** How vCPUs are throttled. */
export interface ThrottleOptions {
  /**
   * Most milliseconds for which a vCPU is held at a stretch: the downtime limit, and at least 1. With a fraction `f` a vCPU thus runs for
   * at most `longestMs * (1 - f) / f` between two holds. A VMM that cannot run a vCPU for so short a time holds it back less, not longer.
   */
  readonly longestMs: number;
  /**
   * A fraction for each vCPU, in the order of `vcpuWrites`. Together they hold back as many writes as `fraction` for every vCPU would.
   * Absent unless the VM has `vcpuWrites`. A VMM without a throttle for each vCPU uses `fraction`.
   */
  readonly vcpus?: readonly number[];
}

/**
 * A VM as the embedder gives it to the engine, on either side.
 *
 * @example
 * const vm: MigratableVm = {
 *   memory,
 *   trackers: [PagemapTracker.forMemory(memory)],
 *   devices: [serialPort],
 *   pause: () => vcpus.stop(), // resolves when none of them runs
 *   resume: () => vcpus.start(),
 * };
 */
export interface MigratableVm {
  readonly memory: GuestMemory;
  /** Dirty trackers that together see every writer of guest memory; at least one at the source. Not used at the destination. */
  readonly trackers: readonly DirtyTracker[];
  /** The devices whose state is migrated. The destination loads them in the order of its own list. */
  readonly devices: readonly MigratableDevice[];
  /** Source: names pages that need not be sent, since the guest has freed them. Absent: all populated pages are sent. */
  readonly freePages?: FreePages;
  /**
   * The state of the guest, as its user set it. It is migrated, so that a paused guest stays paused, here or at the destination.
   * `ended`: the guest has shut down or crashed; the migration fails with `GODWIT_GUEST_ENDED`. Without it the guest counts as running.
   */
  runState?(): RunState;
  /**
   * Stops all vCPUs and every other writer of guest memory. Once it has resolved, guest memory is written only by devices' `save`, and
   * until the first `save` by assigned devices whose writes a tracker sees. When `signal` aborts first, `pause` must undo what it began
   * and settle, with the guest running as before (if it resolves nevertheless, `resume` is called). No other method is called before the
   * promise has settled. Idempotent.
   */
  pause(signal?: AbortSignal): Promise<void>;
  /**
   * Runs the guest: at the source after a failure, a cancel or a stop-and-copy that was given up; at the destination after `go`. Never
   * called for a guest that its user had paused. Idempotent.
   */
  resume(): Promise<void>;
  /** Destination: resolves when the VM is built (its threads run, its memory is mapped), so that loading devices is quick. */
  prepared?(): Promise<void>;
  /**
   * Source: kicks every vCPU out of the guest, as `pause` does, lets it enter again at once, and resolves with the milliseconds until the
   * last one was out: what `pause` would have waited for. The downtime prediction learns from it how long `pause` will take, while the
   * guest runs on. The engine calls it once before round 1 and then after a round, at most every 5 s, never while `pause` or another
   * rehearsal has not settled. When the promise rejects, or resolves with anything but a finite number of 0 or more, a warning is emitted
   * and the method is not called again. `signal` aborts when the answer is no longer waited for: the migration ends, or the pause is about
   * to begin; the promise must then settle soon. Without this method the first pause is predicted from `prior`, or guessed.
   *
   * ```ts
   * async rehearsePause() {
   *   const start = performance.now();
   *   await Promise.all(vcpus.map((vcpu) => vcpu.kick())); // resolves when the vCPU has left KVM_RUN; it then enters again
   *   return performance.now() - start;
   * }
   * ```
   */
  rehearsePause?(signal?: AbortSignal): Promise<number>;
  /**
   * Destination, once `prepared` has resolved: milliseconds that `resume` will take, as far as that is known (a message to the parked
   * vCPU threads and back was timed, say). The source's prediction of the downtime uses it. `undefined`: not known.
   */
  expectedResumeMs?(): number | undefined;
  /**
   * Holds vCPUs back for this share of their time, from 0 (full speed) to 0.99, until the next call. Called with the guest running or
   * paused, at any time but while `pause` or `resume` is pending; returns at once. A vCPU that is held neither delays `pause` nor keeps a
   * new fraction waiting. The engine calls it with 0 when the guest was paused and at the end of the migration, whatever the result; never
   * at the destination. An exception is reported as a warning, and the guest is throttled no more.
   */
  throttle?(fraction: number, options: ThrottleOptions): void;
  /**
   * What each vCPU has written since the last call, in any unit that grows with the pages that it dirties and is the same for all: entries
   * of its dirty ring, its write faults. Called ten times a second while the guest is throttled; with this method the vCPUs that write
   * most are throttled. Always the same length and order.
   */
  vcpuWrites?(): readonly number[];
  /** Destination: frees the VM, which will never run: the migration failed before `go`, or was a dry run. */
  abandon?(reason: Error): Promise<void>;
}

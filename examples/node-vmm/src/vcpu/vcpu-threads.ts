import type { ThrottleOptions } from '@godwit/core';
import type { KvmVcpu } from '@godwit/linux';
import { withinMilliseconds } from '../machine/deadline.js';
import type { SharedBoard } from './shared-board.js';
import { throttleFraction } from './throttle.js';
import { type VcpuListener, VcpuRunner, type VcpuSurroundings } from './vcpu-runner.js';

/**
 * The number of kicks in a rehearsal, of which the shortest counts: in a longer one the main thread was busy with sending, for which a
 * pause does not wait.
 */
const REHEARSALS = 3;

/** How long a vCPU may take to leave the guest, in milliseconds. It usually takes half a millisecond. */
const PARK_MS = 10_000;
/** How long a thread may take to start or end, in milliseconds: 64 threads on a host of two processors take some seconds. */
const THREAD_MS = 60_000;

/** The threads of all vCPUs of a machine, which are given the same order. */
export class VcpuThreads {
  /** Resolves when all threads have started and are parked. */
  readonly started: Promise<void>;
  readonly #board: SharedBoard;
  readonly #runners: readonly VcpuRunner[];

  constructor(vcpus: readonly KvmVcpu[], surroundings: VcpuSurroundings, listener: VcpuListener) {
    this.#board = surroundings.board;
    this.#runners = vcpus.map((vcpu) => new VcpuRunner(vcpu, surroundings, listener));
    this.started = this.#all('start', THREAD_MS, (runner) => runner.park());
    // The calls that await the threads report a failure.
    this.started.catch(() => {});
  }

  /** Lets all vCPUs enter the guest: see `VcpuRunner.run`. */
  run(): void {
    for (const runner of this.#runners) runner.run();
  }

  /**
   * Resolves when all vCPUs have left the guest.
   *
   * @throws GodwitError GODWIT_VM_FAILED when one does not; the reason of `signal`
   */
  park(signal?: AbortSignal): Promise<void> {
    return this.#all('leave the guest', PARK_MS, (runner) => runner.park(), signal);
  }

  /**
   * Kicks all vCPUs, which run, out of the guest, and lets them enter again at once.
   *
   * @returns milliseconds until the last vCPU was out
   * @throws GodwitError GODWIT_VM_FAILED when one does not leave the guest; the reason of `signal`
   */
  async rehearse(signal?: AbortSignal): Promise<number> {
    let least = Number.POSITIVE_INFINITY;
    for (let i = 0; i < REHEARSALS; i++) {
      const start = performance.now();
      await this.#all('leave the guest', PARK_MS, (runner) => runner.rehearse(), signal);
      least = Math.min(least, performance.now() - start);
    }
    return least;
  }

  /**
   * Sets the throttle of each vCPU: see `Machine.throttle`.
   *
   * @param running whether the vCPUs run: a vCPU that does then sees the change at once
   * @throws RangeError when a fraction is not between 0 and 1; nothing was changed
   */
  throttle(
    fraction: number,
    { longestMs = Number.POSITIVE_INFINITY, vcpus }: Partial<ThrottleOptions>,
    running: boolean,
  ): void {
    const fractions = this.#runners.map(({ index }) => throttleFraction(vcpus?.[index] ?? fraction));
    for (const runner of this.#runners) {
      const changed = this.#board.setThrottle(runner.index, fractions[runner.index] as number, longestMs);
      if (changed && running) runner.lookUp();
    }
  }

  /** The time for which the throttle has held back each vCPU so far, in milliseconds. */
  heldMs(): readonly number[] {
    return this.#runners.map(({ index }) => this.#board.heldMs(index));
  }

  /** Tells all threads to end, without waiting, for use while the process exits. */
  tellToEnd(): void {
    for (const runner of this.#runners) runner.tellToEnd();
  }

  /** Ends all threads. */
  async end(): Promise<void> {
    await this.#all('end', THREAD_MS, (runner) => runner.end());
  }

  async #all(
    what: string,
    milliseconds: number,
    order: (runner: VcpuRunner) => Promise<void>,
    signal?: AbortSignal,
  ): Promise<void> {
    await Promise.all(
      this.#runners.map((runner) =>
        withinMilliseconds(milliseconds, `vCPU ${runner.index} did not ${what}`, order(runner), signal),
      ),
    );
  }
}

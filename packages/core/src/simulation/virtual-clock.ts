import { type Clock, systemClock } from '../clock.js';

interface Sleeper {
  readonly at: number;
  readonly wake: () => void;
}

/**
 * A clock whose time passes only when nothing else can run: everything that can run without waiting runs first, then the time jumps to
 * that of the next sleeper. Hours pass in milliseconds, independent of the machine's speed, and the same program sees the same times on
 * every run.
 *
 * It works for programs that wait only for this clock and for promises, not for sockets, files or threads.
 *
 * @example
 * const clock = new VirtualClock();
 * const { connector, listener } = memoryLink({ clock, bytesPerSecond: 125e6 });
 * receive(listener, { prepare, clock });
 * const { totalMs } = await migrate(vm, connector, { clock }).result;
 */
export class VirtualClock implements Clock {
  #now = 0;
  /** Sorted by time, and at the same time by the order of the calls. */
  readonly #sleepers: Sleeper[] = [];
  readonly #yielding: (() => void)[] = [];
  #running = false;
  #stopped = false;

  /** Number of calls of `sleep` that have not ended: 0 unless a timer was left behind. */
  get sleepers(): number {
    return this.#sleepers.length;
  }

  now(): number {
    return this.#now;
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) {
        reject(signal.reason);
        return;
      }
      const sleeper: Sleeper = {
        at: this.#now + Math.max(0, ms),
        wake: () => {
          signal?.removeEventListener('abort', onAbort);
          resolve();
        },
      };
      const onAbort = () => {
        this.#sleepers.splice(this.#sleepers.indexOf(sleeper), 1);
        reject(signal?.reason);
      };
      signal?.addEventListener('abort', onAbort, { once: true });
      let at = this.#sleepers.length;
      while (at > 0 && (this.#sleepers[at - 1] as Sleeper).at > sleeper.at) at--;
      this.#sleepers.splice(at, 0, sleeper);
      void this.#run();
    });
  }

  /** Lets everything that can run do so; takes no time. */
  yield(): Promise<void> {
    return new Promise((resolve) => {
      this.#yielding.push(resolve);
      void this.#run();
    });
  }

  /** Lets no more time pass: sleepers do not wake. This ends loops that would go on for ever, such as attempts to reconnect. */
  stop(): void {
    this.#stopped = true;
  }

  async #run(): Promise<void> {
    if (this.#running) return;
    this.#running = true;
    while (!this.#stopped && (this.#sleepers.length > 0 || this.#yielding.length > 0)) {
      // After one turn of the event loop all promises that were ready have run.
      await systemClock.yield();
      const yielded = this.#yielding.splice(0);
      if (yielded.length > 0) {
        for (const wake of yielded) wake();
        continue;
      }
      const next = this.#sleepers.shift();
      if (next === undefined) continue;
      this.#now = next.at;
      next.wake();
    }
    this.#running = false;
  }
}

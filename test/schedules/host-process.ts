import type { Clock } from '@godwit/core';

/** What a process that has died waits for. */
export function never(): Promise<never> {
  return new Promise(() => {});
}

/**
 * A process in which one side of a migration runs. When it has died, nothing that its code waits for comes: sleeps do not
 * end, and whoever is called on its behalf asks `alive` first.
 */
export class HostProcess {
  readonly name: string;
  /** For the engine, whose sleeps are counted. */
  readonly clock: Clock;
  readonly #world: Clock;
  alive = true;
  /** Sleeps of its code that have not ended. */
  sleeping = 0;

  constructor(name: string, world: Clock) {
    this.name = name;
    this.#world = world;
    this.clock = {
      now: () => world.now(),
      sleep: (ms, signal) => this.#sleep(ms, signal),
      yield: () => this.whileAlive(world.yield()),
    };
  }

  /** Settles as `work` does, if the process lives then. */
  whileAlive<T>(work: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      work.then(
        (value) => {
          if (this.alive) resolve(value);
        },
        (error: unknown) => {
          if (this.alive) reject(error);
        },
      );
    });
  }

  /** A sleep of what the embedder brings. */
  delay(ms: number, signal?: AbortSignal): Promise<void> {
    return this.alive ? this.whileAlive(this.#world.sleep(ms, signal)) : never();
  }

  #sleep(ms: number, signal: AbortSignal | undefined): Promise<void> {
    if (!this.alive) return never();
    this.sleeping++;
    const slept = this.#world.sleep(ms, signal);
    const over = () => {
      this.sleeping--;
    };
    slept.then(over, over);
    return this.whileAlive(slept);
  }
}

import type { Clock } from '@godwit/core';

/** A promise that never settles: what every wait of a dead process gets. */
export function never(): Promise<never> {
  return new Promise(() => {});
}

/**
 * A simulated process in which one side of a migration runs. Once it has died its code gets no further: its sleeps and calls never
 * settle. Code that acts for a process checks `alive` first.
 */
export class HostProcess {
  readonly name: string;
  /** The engine's clock in this process; its pending sleeps are counted in `sleeping`. */
  readonly clock: Clock;
  readonly #world: Clock;
  alive = true;
  /** Number of pending sleeps of the engine. */
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

  /** Settles as `work` does, if the process is alive at that moment; else never. */
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

  /** A sleep of the VM, a device or the authority; not counted in `sleeping`. */
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

import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import type { Worker } from 'node:worker_threads';

/** The worker threads that were started since, and which of them are there still. */
export class ThreadWatch {
  readonly started: Worker[] = [];
  readonly alive = new Set<Worker>();
  readonly #onThread = (message: unknown): void => {
    const { worker } = message as { worker: Worker };
    this.started.push(worker);
    this.alive.add(worker);
    worker.once('exit', () => this.alive.delete(worker));
  };

  constructor() {
    subscribe('worker_threads', this.#onThread);
  }

  stop(): void {
    unsubscribe('worker_threads', this.#onThread);
  }
}

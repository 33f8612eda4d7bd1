import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import type { Worker } from 'node:worker_threads';

/** The worker threads that were started since, and which of them are there still. */
export class ThreadWatch {
  readonly started: Worker[] = [];
  readonly alive = new Set<Worker>();
  readonly #ready = new Map<Worker, Promise<unknown>>();
  readonly #onThread = (message: unknown): void => {
    const { worker } = message as { worker: Worker };
    this.started.push(worker);
    this.alive.add(worker);
    worker.once('exit', () => this.alive.delete(worker));
    this.#ready.set(worker, new Promise((resolve) => worker.once('message', resolve)));
  };

  constructor() {
    subscribe('worker_threads', this.#onThread);
  }

  /** Ends a thread by force, as soon as it has said anything: one that still loads native code would take us with it. */
  async kill(index: number): Promise<void> {
    const worker = this.started[index] as Worker;
    await this.#ready.get(worker);
    await worker.terminate();
  }

  stop(): void {
    unsubscribe('worker_threads', this.#onThread);
  }
}

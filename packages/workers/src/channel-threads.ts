import { Worker } from 'node:worker_threads';
import { GodwitError } from '@godwit/core';

/** How long `ready` waits, in milliseconds. */
const READY_MS = 2_000;

/**
 * Threads for page channels. Starting one takes 100 ms or more, which is to be over when the first page comes: so they are
 * started early, and wait. Idle threads do not keep the process alive.
 */
export class ChannelThreads {
  readonly #idle = new Set<Worker>();
  readonly #starting = new Set<Promise<void>>();
  #closed = false;

  /** Starts threads until `count` are idle. */
  start(count: number): void {
    while (this.#idle.size < count && !this.#closed) {
      const worker = new Worker(new URL('./channel-thread.js', import.meta.url), {
        name: 'godwit page channel',
        execArgv: [],
      });
      worker.unref();
      // One that dies is not idle any more; whoever takes its place hears of it.
      worker.once('error', () => undefined);
      worker.once('exit', () => this.#idle.delete(worker));
      this.#idle.add(worker);
      const ready = new Promise<void>((resolve) => {
        worker.once('message', () => resolve());
        worker.once('exit', () => resolve());
      });
      this.#starting.add(ready);
      void ready.then(() => this.#starting.delete(ready));
    }
  }

  /** Resolves when all threads that were started are ready, or after a while: what they are given waits for them. */
  async ready(): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, READY_MS);
    });
    await Promise.race([Promise.all(this.#starting), late]);
    clearTimeout(timer);
  }

  /** An idle thread, or a new one. It is the caller's from now on, and keeps the process alive. */
  take(): Worker {
    if (this.#closed) throw new GodwitError('GODWIT_INVALID_STATE', 'the threads for page channels have been stopped');
    this.start(1);
    const [worker] = this.#idle as Iterable<Worker> as [Worker];
    this.#idle.delete(worker);
    worker.ref();
    return worker;
  }

  /** Ends the idle threads. */
  async close(): Promise<void> {
    this.#closed = true;
    const ending = Array.from(this.#idle, (worker) => worker.terminate());
    this.#idle.clear();
    await Promise.all(ending);
  }
}

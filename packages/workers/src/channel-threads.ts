import { Worker } from 'node:worker_threads';
import { GodwitError } from '@godwit/core';
import type { ChannelOrder } from './channel-messages.js';

/** How long `ready` waits, in milliseconds. */
const READY_MS = 2_000;

/**
 * A thread for one page channel. It must not be terminated before it is ready: the foreign function interface that it loads
 * ends the whole process then.
 */
export interface ChannelThread {
  readonly worker: Worker;
  /** Resolves when it has loaded its modules, or is gone. */
  readonly ready: Promise<void>;
}

/**
 * Threads for page channels. Starting one takes 100 ms or more, which is to be over when the first page comes: so they are
 * started early, and wait. Idle threads do not keep the process alive.
 */
export class ChannelThreads {
  readonly #idle = new Set<ChannelThread>();
  #closed = false;

  /** Starts threads until `count` are idle. */
  start(count: number): void {
    while (this.#idle.size < count && !this.#closed) this.#start();
  }

  /** Resolves when all idle threads are ready, or after a while: what they are given waits for them. */
  async ready(): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, READY_MS);
    });
    await Promise.race([Promise.all(Array.from(this.#idle, ({ ready }) => ready)), late]);
    clearTimeout(timer);
  }

  /** An idle thread, or a new one. It is the caller's from now on, and keeps the process alive. */
  take(): ChannelThread {
    if (this.#closed) throw new GodwitError('GODWIT_INVALID_STATE', 'the threads for page channels have been stopped');
    this.start(1);
    const [thread] = this.#idle as Iterable<ChannelThread> as [ChannelThread];
    this.#idle.delete(thread);
    thread.worker.ref();
    return thread;
  }

  /** Ends the idle threads. */
  async close(): Promise<void> {
    this.#closed = true;
    const ending = Array.from(this.#idle, ({ worker }) => {
      worker.ref();
      worker.postMessage({ type: 'close' } satisfies ChannelOrder);
      return new Promise((resolve) => worker.once('exit', resolve));
    });
    this.#idle.clear();
    await Promise.all(ending);
  }

  #start(): void {
    const worker = new Worker(new URL('./channel-thread.js', import.meta.url), {
      name: 'godwit page channel',
      execArgv: [],
    });
    worker.unref();
    const ready = new Promise<void>((resolve) => {
      worker.once('message', () => resolve());
      worker.once('exit', () => resolve());
    });
    const thread = { worker, ready };
    // One that dies is not idle any more; whoever takes its place hears of it.
    worker.once('error', () => undefined);
    worker.once('exit', () => this.#idle.delete(thread));
    this.#idle.add(thread);
  }
}

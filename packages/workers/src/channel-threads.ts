import { Worker } from 'node:worker_threads';
import { GodwitError } from '@godwit/core';
import type { ChannelOrder } from './channel-messages.js';
import { threadFile } from './thread-modules.js';

/**
 * A thread for one page channel. A thread must not be terminated before it is ready: koffi, which it loads, would end the whole
 * process.
 */
export interface ChannelThread {
  readonly worker: Worker;
  /** Resolves when the thread has loaded its modules, or has ended. */
  readonly ready: Promise<void>;
}

/**
 * Threads for page channels. Starting one takes 100 ms or more; threads that are started early wait, idle, for their page channel. Idle
 * threads do not keep the process alive.
 */
export class ChannelThreads {
  readonly #idle = new Set<ChannelThread>();
  #closed = false;

  /** Starts threads until `count` are idle. */
  start(count: number): void {
    while (this.#idle.size < count && !this.#closed) this.#start();
  }

  /** Returns an idle thread, or a new one. The caller owns the thread from then on, and the thread keeps the process alive. */
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
    const [file, options] = threadFile('channel-thread');
    const worker = new Worker(file, {
      ...options,
      name: 'godwit page channel',
      // Only the process's options for V8's profiler are passed on: others may load modules that this thread must not have.
      execArgv: process.execArgv.flatMap((option, index, all) => profilerOption(option, all[index + 1])),
    });
    worker.unref();
    const ready = new Promise<void>((resolve) => {
      worker.once('message', () => resolve());
      worker.once('exit', () => resolve());
    });
    const thread = { worker, ready };
    // A thread that has ended is no longer idle; a page channel that has taken it receives its error.
    worker.once('error', () => undefined);
    worker.once('exit', () => this.#idle.delete(thread));
    this.#idle.add(thread);
  }
}

/** `--cpu-prof`, `--cpu-prof-dir FOLDER` and the like, and nothing for another option. */
function profilerOption(option: string, next: string | undefined): string[] {
  if (!option.startsWith('--cpu-prof')) return [];
  return option === '--cpu-prof' || option.includes('=') || next === undefined ? [option] : [option, next];
}

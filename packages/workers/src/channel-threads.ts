import { Worker } from 'node:worker_threads';
import { checkOptions, GodwitError, nonNegative } from '@godwit/core';
import type { ChannelOrder } from './channel-messages.js';
import { threadFile } from './thread-modules.js';
import { withLargeYoungGeneration } from './young-generation.js';

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
 * Threads for page channels that are started before they are needed, and wait idle: starting one takes 50 to 100 ms, and a migration that
 * has to wait for that moves no page meanwhile. Each page channel takes one for itself, and the thread ends with its channel. Idle threads
 * do not keep the process alive; each has about 12 MiB of memory.
 *
 * Made by `channelThreads`, and given to `onWorkers`.
 *
 * @example
 * const threads = channelThreads(2);
 * await threads.ready();
 * const migration = migrate(vm, onWorkers(connectTo(transport), { threads }));
 */
export class ChannelThreads {
  readonly #count: number;
  readonly #postcopy: boolean;
  readonly #idle = new Set<ChannelThread>();
  /** The idle thread that has made ready to answer, for the urgent stream of a post-copy. */
  #answering: ChannelThread | undefined;
  #closed = false;

  /** Starts `count` threads. */
  constructor(count: number, { postcopy = false }: ChannelThreadsOptions = {}) {
    this.#count = count;
    this.#postcopy = postcopy;
    this.#start(count);
  }

  /**
   * Starts as many threads as page channels have taken since, and resolves when all that should wait are idle. Call it when a guest
   * begins to run in this process, and again when a migration has failed: the next one finds threads then.
   */
  async ready(): Promise<void> {
    this.#start(this.#count);
    await Promise.all(Array.from(this.#idle, ({ ready }) => ready));
  }

  /**
   * Returns an idle thread, or a new one; with `last`, the one that has made ready to answer, if there is one, and otherwise that one last
   * of all. The caller owns the thread from then on, and the thread keeps the process alive.
   *
   * @internal
   */
  take(last = false): ChannelThread {
    if (this.#closed) throw new GodwitError('GODWIT_INVALID_STATE', 'the threads for page channels have been stopped');
    this.#start(1);
    const idle = [...this.#idle];
    const wanted = idle.find((one) => (one === this.#answering) === last);
    const thread = wanted ?? (idle[0] as ChannelThread);
    if (thread === this.#answering) this.#answering = undefined;
    this.#idle.delete(thread);
    thread.worker.ref();
    return thread;
  }

  /** Ends the idle threads, and starts none from then on. Threads that page channels have taken end with their channels. */
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

  /** Starts threads until `count` are idle. */
  #start(count: number): void {
    while (this.#idle.size < count && !this.#closed) {
      if (!this.#postcopy || this.#answering !== undefined) this.#startOne(startThread());
      else {
        const worker = withLargeYoungGeneration(startThread);
        worker.postMessage({ type: 'warm up' } satisfies ChannelOrder);
        this.#answering = this.#startOne(worker);
      }
    }
  }

  /** Takes a thread that has just been started among the idle ones. */
  #startOne(worker: Worker): ChannelThread {
    worker.unref();
    const ready = new Promise<void>((resolve) => {
      worker.once('message', () => resolve());
      worker.once('exit', () => resolve());
    });
    const thread = { worker, ready };
    // A thread that has ended is no longer idle; a page channel that has taken it receives its error.
    worker.once('error', () => undefined);
    worker.once('exit', () => {
      this.#idle.delete(thread);
      if (this.#answering === thread) this.#answering = undefined;
    });
    this.#idle.add(thread);
    return thread;
  }
}

function startThread(): Worker {
  const [file, options] = threadFile('channel-thread');
  return new Worker(file, {
    ...options,
    name: 'godwit page channel',
    // Only the process's options for V8's profiler are passed on: others may load modules that this thread must not have.
    execArgv: process.execArgv.flatMap((option, index, all) => profilerOption(option, all[index + 1])),
  });
}

/** Options of `channelThreads`. */
export interface ChannelThreadsOptions {
  /**
   * One of the threads makes ready to answer requests for pages while it waits, which takes 0.3 s of processor time, and the urgent
   * channel of a migration by post-copy takes that one. Otherwise the migration has this work to do while it pauses the guest. Default:
   * false.
   */
  readonly postcopy?: boolean;
}

/**
 * Starts threads that wait for page channels.
 *
 * @param count threads that wait at a time. Default: 2, as many as `pageChannels: 'auto'` gives page channels. A migration by post-copy
 *   takes one more, for its urgent channel.
 * @throws GodwitError GODWIT_INVALID_ARGUMENT for a number that is none.
 *
 * @example
 * const threads = channelThreads();
 * await threads.ready();
 * const migration = migrate(vm, onWorkers(connectTo(tcp({ host, port })), { threads }));
 */
export function channelThreads(count = 2, options: ChannelThreadsOptions = {}): ChannelThreads {
  checkOptions<ChannelThreadsOptions>('channelThreads', options, { postcopy: true });
  return new ChannelThreads(nonNegative('count', count), options);
}

/** `--cpu-prof`, `--cpu-prof-dir FOLDER` and the like, and nothing for another option. */
function profilerOption(option: string, next: string | undefined): string[] {
  if (!option.startsWith('--cpu-prof')) return [];
  return option === '--cpu-prof' || option.includes('=') || next === undefined ? [option] : [option, next];
}

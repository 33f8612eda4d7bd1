import { Worker } from 'node:worker_threads';
import { type ThreadName, threadFile } from '../thread-modules.js';
import { withLargeYoungGeneration } from '../young-generation.js';
import type { ServiceReport } from './missing-messages.js';

/** A thread that waits for its order. */
export interface ServiceThread {
  readonly worker: Worker;
  /** Resolves when the thread has loaded its modules, or has ended. */
  readonly ready: Promise<void>;
  readonly ended: Promise<void>;
}

/** Starts a thread. The thread does not keep the process alive until it is given its order. `urgent`: vCPUs wait for it. */
export function startServiceThread(name: string, thread: ThreadName = 'service-thread', urgent = false): ServiceThread {
  const [file, options] = threadFile(thread);
  const start = (): Worker => new Worker(file, { ...options, name, execArgv: [] });
  const worker = urgent ? withLargeYoungGeneration(start) : start();
  worker.unref();
  const ended = new Promise<void>((resolve) => {
    worker.once('exit', () => resolve());
  });
  // The code that has given the thread its order reports errors.
  worker.on('error', () => undefined);
  const ready = new Promise<void>((resolve) => {
    worker.once('message', (message: Pick<ServiceReport, 'type'>) => {
      if (message.type === 'ready') resolve();
    });
    void ended.then(resolve);
  });
  return { worker, ready, ended };
}

/** Ends threads that were given no order; resolves when they have ended. */
export async function stopThreads(threads: readonly ServiceThread[]): Promise<void> {
  for (const { worker } of threads) {
    worker.ref();
    worker.postMessage({ order: undefined });
  }
  await Promise.all(threads.map(({ ended }) => ended));
}

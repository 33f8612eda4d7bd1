import { Worker } from 'node:worker_threads';
import type { ServiceReport } from './missing-messages.js';

/** A thread that stands ready for its order. */
export interface ServiceThread {
  readonly worker: Worker;
  /** Resolves when it has loaded its modules, or has ended. */
  readonly ready: Promise<void>;
  readonly ended: Promise<void>;
}

/** The module of a thread that serves missing pages. */
const SERVICE = new URL('./service-thread.js', import.meta.url);

/** Starts a thread of this module. It does not keep the process alive until it is given its order. */
export function startServiceThread(name: string, module: URL = SERVICE): ServiceThread {
  const worker = new Worker(module, { name, execArgv: [] });
  worker.unref();
  const ended = new Promise<void>((resolve) => {
    worker.once('exit', () => resolve());
  });
  // An error is reported by whoever has given it an order.
  worker.on('error', () => undefined);
  const ready = new Promise<void>((resolve) => {
    worker.once('message', (message: Pick<ServiceReport, 'type'>) => {
      if (message.type === 'ready') resolve();
    });
    void ended.then(resolve);
  });
  return { worker, ready, ended };
}

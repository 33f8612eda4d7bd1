import { setImmediate } from 'node:timers/promises';
import { type MessagePort, parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { GodwitError, makeFromRecipe, type PageSource } from '@godwit/core/pages';
import { provideModules, type ThreadModules } from '../thread-modules.js';
import { beFirst, beNicerBy } from '../thread-priority.js';
import { FaultLoop } from './fault-loop.js';
import type { FaultOrder, ServeOrder, ServiceReport } from './missing-messages.js';
import { PageLoader } from './page-loader.js';
import { warmUpFaults } from './warm-up.js';

/*
 * A thread that serves memory in which pages are missing: page faults, or the loading of the rest. The thread waits until its order
 * comes; after that it never returns to its event loop, and ends with the service.
 */
const port = parentPort;
if (port === null) throw new Error('this module is a thread that serves missing pages');
provideModules(workerData as ThreadModules);
const report = (message: ServiceReport): void => port.postMessage(message);

/**
 * The number that is added to the loading thread's nice value, so that the guest's vCPUs and the thread that serves their faults come
 * first.
 */
const NICER = 4;

/** How long the fault thread polls for an answer before it sleeps, where it has its priority. Milliseconds. */
const ANSWER_POLL_MS = 0.04;

async function serve({ role, parts }: ServeOrder, orders: MessagePort | undefined): Promise<void> {
  const source =
    parts.source === undefined ? undefined : ((await makeFromRecipe(parts.source, 'a PageSource')) as PageSource);
  try {
    report({ type: 'serving' });
    source?.warmUp?.();
    if (role === 'faults') {
      const pollMs = beFirst() ? ANSWER_POLL_MS : 0;
      new FaultLoop(parts, source, () => take(orders), report, pollMs).run();
    } else if (source !== undefined) {
      beNicerBy(NICER);
      new PageLoader(parts, source, report).run();
      report({ type: 'loaded' });
    }
  } finally {
    source?.close();
  }
}

function take(orders: MessagePort | undefined): FaultOrder | undefined {
  return orders && (receiveMessageOnPort(orders)?.message as FaultOrder | undefined);
}

/** True until the order comes, which has the role. */
let waiting = true;

port.on('message', (message: { warmUp: true } | { order: ServeOrder | undefined; orders: MessagePort | undefined }) => {
  if ('warmUp' in message) {
    void warmUpFaults(nextTurn);
    return;
  }
  // An order is the only one; after it comes the end at most, which the thread sees in shared memory.
  if (!waiting) return;
  waiting = false;
  const { order, orders } = message;
  if (order === undefined) {
    port.close();
    return;
  }
  serve(order, orders)
    .catch((error: unknown) => {
      const { code, message } = GodwitError.wrap(error, 'GODWIT_INTERNAL', 'a thread that serves missing pages failed');
      report({ type: 'failed', code, message });
    })
    .finally(() => {
      orders?.close();
      port.close();
    });
});
report({ type: 'ready' });

/** Lets the event loop run; resolves with true when no order has come. */
async function nextTurn(): Promise<boolean> {
  await setImmediate();
  return waiting;
}

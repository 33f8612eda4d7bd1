import { setImmediate } from 'node:timers/promises';
import { type MessagePort, parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { GodwitError, makeFromRecipe, type PageSource } from '@godwit/core/pages';
import { provideModules, type ThreadModules } from '../thread-modules.js';
import { beNicerBy, beUrgent } from '../thread-priority.js';
import { FaultLoop } from './fault-loop.js';
import type { FaultOrder, ServeOrder, ServiceReport } from './missing-messages.js';
import { PageLoader } from './page-loader.js';
import { warmUpFaults } from './warm-up.js';

/*
 * A thread that serves memory in which pages are missing: page faults, or the loading of the rest. It stands ready until its order comes;
 * from then on it never comes back to its event loop, and ends with the service.
 */
const port = parentPort;
if (port === null) throw new Error('this module is a thread that serves missing pages');
provideModules(workerData as ThreadModules);
const report = (message: ServiceReport): void => port.postMessage(message);

/** The loading thread comes behind the guest's vCPUs and the thread that serves their faults: it is added to its nice value. */
const NICER = 4;

async function serve({ role, parts }: ServeOrder, orders: MessagePort | undefined): Promise<void> {
  const source =
    parts.source === undefined ? undefined : ((await makeFromRecipe(parts.source, 'a PageSource')) as PageSource);
  try {
    report({ type: 'serving' });
    source?.warmUp?.();
    if (role === 'faults') {
      beUrgent();
      await new FaultLoop(parts, source, () => take(orders), report).run();
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

/** Until the order comes. The role is not known before: both threads are alike. */
let waiting = true;

port.once('message', ({ order, orders }: { order: ServeOrder | undefined; orders: MessagePort | undefined }) => {
  waiting = false;
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
void warmUpFaults(nextTurn);

/** Lets an order come; resolves with whether none has. */
async function nextTurn(): Promise<boolean> {
  await setImmediate();
  return waiting;
}

import { setImmediate } from 'node:timers/promises';
import { parentPort, workerData } from 'node:worker_threads';
import { GodwitError, makeFromRecipe, type PageTarget } from '@godwit/core/pages';
import { Userfaultfd } from '@godwit/linux/userfaultfd';
import { provideModules, type ThreadModules } from '../thread-modules.js';
import { beNicerBy, beUrgent } from '../thread-priority.js';
import { FaultCopier } from './fault-copier.js';
import { PageSaver } from './page-saver.js';
import { ControlWord, Mode, type ProtectedParts, type ProtectOrder, type ProtectReport } from './protect-messages.js';
import { warmUp } from './warm-up.js';

/*
 * A thread of a background snapshot: it serves the page faults of writes, or saves pages. It stands ready until its order comes; from then on
 * it never comes back to its event loop, and ends with the snapshot.
 */
const port = parentPort;
if (port === null) throw new Error('this module is a thread of background snapshots');
provideModules(workerData as ThreadModules);
const report = (message: ProtectReport): void => port.postMessage(message);

/** The saving thread comes behind the guest's vCPUs and the thread that serves their faults: it is added to its nice value. */
const NICER = 4;

async function protect({ role, parts }: ProtectOrder): Promise<void> {
  if (role === 'faults') {
    beUrgent();
    new FaultCopier(parts, report).run();
    return;
  }
  const target = (await makeFromRecipe(parts.target, 'a PageTarget')) as PageTarget;
  try {
    report({ type: 'serving' });
    beNicerBy(NICER);
    save(parts, target);
  } finally {
    target.close();
  }
}

function save(parts: ProtectedParts, target: PageTarget): void {
  const saver = new PageSaver(parts, target);
  try {
    if (saver.run()) report({ type: 'saved' });
  } finally {
    saver.close();
  }
}

/** Nobody serves faults any more: no page may be protected. */
function letAllGo({ uffd, blocks }: ProtectedParts): void {
  const there = Userfaultfd.attach(uffd);
  for (const { address, byteLength } of blocks) {
    there.unregister(BigInt(address), byteLength);
    there.wake(address, byteLength);
  }
}

/** Until the order comes. The role is not known before: both threads are alike. */
let waiting = true;

port.once('message', ({ order }: { order: ProtectOrder | undefined }) => {
  waiting = false;
  if (order === undefined) {
    port.close();
    return;
  }
  protect(order)
    .catch((error: unknown) => {
      // In this moment, and not when the main thread has heard of it: somebody may wait for room that will never be there.
      const control = new Int32Array(order.parts.control);
      Atomics.store(control, ControlWord.mode, Mode.lifting);
      const { code, message } = GodwitError.wrap(error, 'GODWIT_INTERNAL', 'a thread of a background snapshot failed');
      report({ type: 'failed', code, message });
      if (order.role === 'faults') letAllGo(order.parts);
    })
    .finally(() => port.close());
});
report({ type: 'ready' });
void warmUp(nextTurn);

/** Lets an order come; resolves with whether none has. */
async function nextTurn(): Promise<boolean> {
  await setImmediate();
  return waiting;
}

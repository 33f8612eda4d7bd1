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
 * A thread of a background snapshot: it serves the page faults of writes, or saves pages. The thread waits until its order comes; after
 * that it never returns to its event loop, and ends with the snapshot.
 */
const port = parentPort;
if (port === null) throw new Error('this module is a thread of background snapshots');
provideModules(workerData as ThreadModules);
const report = (message: ProtectReport): void => port.postMessage(message);

/**
 * The number that is added to the saving thread's nice value, so that the guest's vCPUs and the thread that serves their faults come first.
 */
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

/** Makes all pages writable, since faults are not served any more. */
function letAllGo({ uffd, blocks }: ProtectedParts): void {
  const there = Userfaultfd.attach(uffd);
  for (const { address, byteLength } of blocks) {
    there.unregister(BigInt(address), byteLength);
    there.wake(address, byteLength);
  }
}

/** True until the order comes, which has the role: both threads are started alike. */
let waiting = true;

port.once('message', ({ order }: { order: ProtectOrder | undefined }) => {
  waiting = false;
  if (order === undefined) {
    port.close();
    return;
  }
  protect(order)
    .catch((error: unknown) => {
      // The mode changes at once and not after the main thread was told: a thread may wait for room that will never be there.
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

/** Lets the event loop run; resolves with true when no order has come. */
async function nextTurn(): Promise<boolean> {
  await setImmediate();
  return waiting;
}

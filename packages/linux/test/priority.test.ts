import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { Errno } from '@godwit/linux/unstable';
import { expect, test } from '@jest/globals';

/** bits/sched.h */
const SCHED_OTHER = 0;
const SCHED_FIFO = 1;

async function scheduled(asked: 'real time' | 'short slice'): Promise<Record<string, unknown>> {
  const worker = new Worker(new URL('./workers/scheduled.js', import.meta.url), { workerData: asked });
  const [said] = (await once(worker, 'message')) as [Record<string, unknown>];
  await worker.terminate();
  return said;
}

test('a thread gets the lowest real-time priority, if the process may have it, and threads that it starts do not', async () => {
  const { result, own, child } = await scheduled('real time');
  expect([0, -Errno.EPERM]).toContain(result);
  expect(own).toMatchObject(result === 0 ? { policy: SCHED_FIFO, priority: 1 } : { policy: SCHED_OTHER, priority: 0 });
  expect(child).toMatchObject({ policy: SCHED_OTHER, priority: 0 });
});

test('a thread with a short time slice keeps the usual policy', async () => {
  const { result, own } = await scheduled('short slice');
  expect(result).toBe(0);
  expect(own).toMatchObject({ policy: SCHED_OTHER, priority: 0, nice: 3 });
});

import { getPriority } from 'node:os';
import { Worker, type WorkerOptions } from 'node:worker_threads';
import { expect, test } from '@jest/globals';

/** Loads the module of a page channel's thread on a thread: which CommonJS modules came with it, and its priority then. */
const LOADER = `
  const { getPriority } = require('node:os');
  const { parentPort, workerData } = require('node:worker_threads');
  import(workerData).then(() => {
    parentPort.postMessage({ loaded: Object.keys(require.cache), priority: getPriority() });
    parentPort.close();
  });
`;

/** The report of the module itself, or that of the loader. */
interface Message {
  readonly type?: string;
  readonly loaded?: readonly string[];
  readonly priority?: number;
}

test.each([
  ['channel-thread', 2],
  // A thread of a snapshot takes its place with its order.
  ['protect/protect-thread', 0],
] as const)('%s loads what moves pages and no RxJS, and is %i nicer', async (name, nicer) => {
  const module = new URL(`../dist/${name}.js`, import.meta.url).href;
  const worker = new Worker(LOADER, { eval: true, workerData: module });
  const ended = new Promise((resolve) => worker.once('exit', resolve));
  const messages: Message[] = [];
  await new Promise<void>((resolve, reject) => {
    worker.on('message', (message: Message) => {
      messages.push(message);
      if (message.loaded !== undefined) resolve();
    });
    worker.once('error', reject);
  });
  await ended;
  // It is the thread's module that was loaded: it reports as it does to its main thread.
  expect(messages[0]).toEqual({ type: 'ready' });
  expect(messages[1]?.loaded?.filter((file) => file.includes('rxjs'))).toEqual([]);
  const ours = getPriority();
  expect(messages[1]?.priority).toBe(Math.min(19, ours + nicer));
  expect(getPriority(0)).toBe(ours);
});

interface ThreadFiles {
  readonly threadFile: (name: string) => readonly [URL, WorkerOptions];
}

test.each(['channel-thread', 'service-thread', 'protect-thread'])(
  'the views of 16 TiB do not reach half of the heap of %s, where V8 collects garbage for each',
  async (name) => {
    const { threadFile } = (await import(new URL('../dist/thread-modules.js', import.meta.url).href)) as ThreadFiles;
    const [, { resourceLimits }] = threadFile(name);
    const code = `require('node:worker_threads').parentPort.postMessage(require('node:v8').getHeapStatistics().heap_size_limit)`;
    const worker = new Worker(code, { eval: true, ...(resourceLimits && { resourceLimits }) });
    const limit = await new Promise<number>((resolve, reject) => {
      worker.once('message', resolve);
      worker.once('error', reject);
    });
    expect(limit / 2).toBeGreaterThan(16 * 2 ** 40);
    await worker.terminate();
  },
);

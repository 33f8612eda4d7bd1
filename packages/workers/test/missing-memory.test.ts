import { once } from 'node:events';
import { setImmediate } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { DirtyBitmaps, GodwitError, type MissingMemory } from '@godwit/core';
import { attachGuestMemory, createGuestMemory, type MappedGuestMemory, Userfaultfd } from '@godwit/linux';
import { closeFd, Errno, eventfd, Uffd } from '@godwit/linux/unstable';
import { type FaultThreads, faultThreads } from '@godwit/workers';
import { beforeEach, expect, test } from '@jest/globals';
import type { Touching } from './page-toucher.js';
import { PAGE, type Pattern, wordOf } from './pattern-source.js';
import { ThreadWatch } from './threads.js';
import { endings, testFaults } from './userfault-tests.js';

const PAGES = 1500;
const SECOND = 40;

const ending = endings();

/** The kinds of guest memory: files, or anonymous memory, in huge pages if the host has them. */
const BACKINGS = ['file', 'auto'] as const;
let backing: (typeof BACKINGS)[number];
beforeEach(() => {
  backing = 'file';
});

interface Served {
  readonly memory: MappedGuestMemory;
  readonly missing: MissingMemory;
  readonly reads: Int32Array;
  readonly lost: string[];
  openGate(): void;
  /** Resolves once the loading thread waits at the gate: until it is opened that thread reads no page. */
  atGate(): Promise<void>;
}

/** Memory of two blocks: of block 0 pages with a remainder below 4 by 5 have contents, of block 1 all. The rest is zero. */
function hasContents(block: number, page: number): boolean {
  return block === 1 || page % 5 < 4;
}

function guest(): MappedGuestMemory {
  const memory = createGuestMemory({
    backing,
    blocks: [
      { id: 'low', guestPhysicalAddress: 0, byteLength: PAGES * PAGE },
      { id: 'high', guestPhysicalAddress: 2 ** 32, byteLength: SECOND * PAGE },
    ],
  });
  ending.push(() => memory.close());
  return memory;
}

function threads(): FaultThreads {
  const service = faultThreads();
  ending.push(() => service.close());
  return service;
}

function contentsOf(memory: MappedGuestMemory): DirtyBitmaps {
  const contents = new DirtyBitmaps(memory);
  for (const block of [0, 1]) {
    for (let page = 0; page < contents.at(block).pageCount; page++) {
      if (hasContents(block, page)) contents.at(block).set(page);
    }
  }
  return contents;
}

/** Bitmaps with these pages of each block. */
function pagesOf(memory: MappedGuestMemory, pages: readonly (readonly number[])[]): DirtyBitmaps {
  const bitmaps = new DirtyBitmaps(memory);
  for (const [block, some] of pages.entries()) for (const page of some) bitmaps.at(block).set(page);
  return bitmaps;
}

const CONTENTS = PAGES - PAGES / 5 + SECOND;

async function served({
  first,
  ...options
}: Partial<Pattern> & { open?: boolean; first?: readonly (readonly number[])[] } = {}): Promise<Served> {
  const memory = guest();
  // What is there before is given up.
  memory.blocks[0]?.view(0, 64 * PAGE).fill(0x55);
  const pattern: Pattern = {
    reads: new SharedArrayBuffer(PAGES * 4),
    gate: new SharedArrayBuffer(8),
    ...options,
  };
  const gate = new Int32Array(pattern.gate);
  const openGate = () => {
    Atomics.store(gate, 0, 1);
    Atomics.notify(gate, 0);
  };
  const atGate = async () => {
    while (Atomics.load(gate, 1) === 0) await setImmediate();
  };
  if (options.open === true) openGate();
  const lost: string[] = [];
  const missing = await threads().serve({
    memory,
    contents: contentsOf(memory),
    first: first && pagesOf(memory, first),
    source: { module: new URL('./pattern-source.js', import.meta.url).href, make: 'patternSource', options: pattern },
    onLost: (block, page, reason) => lost.push(`${block}/${page}: ${reason.message}`),
  });
  ending.push(() => missing.end(), openGate);
  missing.loadRest();
  return { memory, missing, reads: new Int32Array(pattern.reads), lost, openGate, atGate };
}

interface Toucher {
  readonly thread: number;
  touch(touching: Touching): Promise<number>;
}

async function toucher(memory: MappedGuestMemory): Promise<Toucher> {
  const worker = new Worker(new URL('./page-toucher.js', import.meta.url), { workerData: memory.attachment() });
  ending.push(() => worker.terminate());
  const [thread] = (await once(worker, 'message')) as [number];
  return {
    thread,
    touch: async (touching) => {
      worker.postMessage(touching);
      const [answer] = (await once(worker, 'message')) as [number];
      return answer;
    },
  };
}

function all(block: number, which: (page: number) => boolean): number[] {
  return Array.from({ length: block === 0 ? PAGES : SECOND }, (_, page) => page).filter(which);
}

/** Numbers from 0, in another order that is always the same. */
function shuffled(pages: readonly number[]): number[] {
  return [...pages].sort((a, b) => ((a * 7919) % 1511) - ((b * 7919) % 1511));
}

async function errorOf(promise: Promise<unknown>): Promise<GodwitError> {
  try {
    await promise;
  } catch (error) {
    if (GodwitError.is(error)) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}

testFaults('each channel has bytes of its own, and what comes once all pages are there is dropped', async () => {
  const memory = guest();
  const contents = new DirtyBitmaps(memory);
  contents.at(1).setRange(0, SECOND);
  const missing = await threads().serve({ memory, contents, others: 'stay', source: undefined });
  ending.push(() => missing.end());
  const [one, two] = [missing.sink(), missing.sink()];
  one.bytes.fill(7, 0, SECOND * PAGE);
  two.bytes.fill(9, 0, SECOND * PAGE);
  one.put(1, 0, SECOND, 0);
  missing.arrived();
  await missing.whole;
  // The service has ended: nobody may wait for a page, and the kernel takes none.
  two.put(1, 0, SECOND, 0);
  expect(memory.blocks[1]?.view(0, SECOND * PAGE).every((byte) => byte === 7)).toBe(true);
  expect(missing.status()).toMatchObject({ pagesMissing: 0, duplicatePages: SECOND });
});

function testEach(name: string, run: () => Promise<void>): void {
  for (const kind of BACKINGS) {
    testFaults(`${name} (${kind})`, async () => {
      backing = kind;
      await run();
    });
  }
}

testFaults('a device model that waits for the last page to come has waited when the memory is whole', async () => {
  const memory = guest();
  const contents = new DirtyBitmaps(memory);
  contents.at(1).setRange(0, SECOND);
  const missing = await threads().serve({ memory, contents, others: 'stay', source: undefined });
  ending.push(() => missing.end());
  const present = memory.present(1, 5 * PAGE, 2 * PAGE);
  // The thread that serves the order has read it, and sleeps: it polls for a millisecond.
  while (missing.status().waitingUs < 20_000) await setImmediate();
  const sink = missing.sink();
  sink.bytes.fill(7, 0, SECOND * PAGE);
  sink.put(1, 0, SECOND, 0);
  // The thread is told to stop before it has seen that the pages are there.
  const ended = missing.end();
  await present;
  await ended;
  expect(memory.blocks[1]?.view(5 * PAGE, 1)[0]).toBe(7);
});

testFaults('a thread that waits for the last page goes on when that is said to be zero', async () => {
  const memory = guest();
  const contents = new DirtyBitmaps(memory);
  contents.at(1).setRange(12, 1);
  const missing = await threads().serve({ memory, contents, others: 'stay', source: undefined });
  ending.push(() => missing.end());
  const touching = (await toucher(memory)).touch({ do: 'check', block: 1, pages: [12], zero: true });
  while (missing.status().faults === 0) await setImmediate();
  // As on the thread of a channel: the main thread hears of it only at the end of the round.
  missing.sink().putZero(1, 12, 1);
  expect(await touching).toBe(0);
  missing.arrived();
  await missing.whole;
});

testFaults('the pages that go first are loaded before the others, and each page once', async () => {
  const order = new SharedArrayBuffer(4 * 3000);
  // Page 1004 has no contents.
  const first = [
    [1000, 1001, 1003, 1004, 1499 - 1],
    [5, 6, 7, 8],
  ];
  const { missing, reads } = await served({ open: true, order, first });
  await missing.whole;
  const numbers = new Int32Array(order);
  const requests: number[][] = [];
  for (let at = 1; at <= (numbers[0] as number); at += 3) requests.push([...numbers.subarray(at, at + 3)]);
  expect(requests.slice(0, 5)).toEqual([
    [0, 1000, 2],
    [0, 1003, 1],
    [0, 1498, 1],
    [1, 5, 4],
    [0, 0, 4],
  ]);
  expect([...reads]).toEqual(Array.from(reads, (_, page) => (hasContents(0, page) ? 1 : 0)));
});

testFaults('memory that cannot be registered leaves no thread behind', async () => {
  const watch = new ThreadWatch();
  ending.push(() => watch.stop());
  const memory = guest();
  const { hostAddress = 0n, byteLength = 0 } = memory.blocks[0] ?? {};
  const other = Userfaultfd.open(Uffd.UFFD_FEATURE_MISSING_SHMEM);
  ending.push(() => other.close());
  other.register(hostAddress, byteLength, Uffd.UFFDIO_REGISTER_MODE_MISSING);
  const service = threads();
  for (let i = 0; i < 2; i++) {
    const serving = service.serve({ memory, contents: contentsOf(memory), others: 'stay', source: undefined });
    expect((await errorOf(serving)).message).toContain('another userfaultfd has this range');
  }
  await service.close();
  expect([watch.started.length, watch.alive.size]).toEqual([4, 0]);
});

test('memory in reserved huge pages is refused: pages come in those of the host', () => {
  const service = faultThreads();
  ending.push(() => service.close());
  const pins = new SharedArrayBuffer(8);
  const block = { id: 'ram', guestPhysicalAddress: 0, byteLength: 2 ** 21, hostAddress: 0n, pins, fd: 0 };
  const memory = Object.assign(Object.create({ missing: undefined }), {
    ...{ pageSize: 2 ** 21, blocks: [{ ...block, pinned: false, filePageSize: 2 ** 21 }] },
  });
  expect(service.blockers(memory)).toContainEqual(
    expect.stringContaining('"ram" has pages of 2097152 bytes, of which the kernel takes no part'),
  );
});

testEach('pages come by faults and in the background, each once, and the rest stays holes', async () => {
  const { memory, missing, reads, openGate } = await served();
  const [one, two] = [await toucher(memory), await toucher(memory)];
  const contents = shuffled(all(0, (page) => hasContents(0, page)));
  const half = one.touch({ do: 'check', block: 0, pages: contents.slice(0, 600) });
  const other = two.touch({ do: 'check', block: 1, pages: all(1, () => true) });
  openGate();
  expect([await half, await other]).toEqual([0, 0]);
  await missing.whole;
  expect(await one.touch({ do: 'check', block: 0, pages: contents })).toBe(0);
  const status = missing.status();
  expect(status).toMatchObject({ pagesMissing: 0, pagesTotal: CONTENTS, pagesLost: 0, remainingMs: 0 });
  // Nothing was read twice, but what both threads were at in the same moment.
  const total = reads.reduce((sum, count) => sum + count, 0);
  expect(total + SECOND).toBeLessThanOrEqual(CONTENTS + status.duplicatePages);
  expect(reads.every((count, page) => (hasContents(0, page) ? count >= 1 && count <= 2 : count === 0))).toBe(true);
  expect(memory.allocatedBytes()).toBe(CONTENTS * PAGE);
  // No longer missing: a hole is touched without anybody who serves it.
  expect(await one.touch({ do: 'check', block: 0, pages: all(0, (page) => !hasContents(0, page)), zero: true })).toBe(
    0,
  );
});

testFaults('faults are counted, and timed by thread, whatever the event loop does', async () => {
  const { memory, missing } = await served();
  const [one, two] = [await toucher(memory), await toucher(memory)];
  const pages = shuffled(all(0, (page) => hasContents(0, page))).slice(0, 400);
  const [first, second] = [pages.slice(0, 300), pages.slice(300)];
  const checked = one.touch({ do: 'check', block: 0, pages: first });
  // The order is on its way: the event loop stands still until its last page was faulted on.
  const giveUpAt = performance.now() + 20_000;
  const others = two.touch({ do: 'check', block: 0, pages: second });
  while (missing.status().faults < 400 && performance.now() < giveUpAt);
  expect(missing.status().faults).toBe(400);
  expect([await checked, await others]).toEqual([0, 0]);
  expect(await two.touch({ do: 'check', block: 0, pages: [4, 9], zero: true })).toBe(0);
  // A fault is settled when its page is there, which its thread may notice before it is counted.
  const settled = () => missing.status().latencyDistribution.reduce((sum, count) => sum + count, 0);
  while (settled() < 402 && performance.now() < giveUpAt);
  const status = missing.status();
  expect(status).toMatchObject({ faults: 402, zeroFaults: 2, duplicatePages: 0, pagesMissing: CONTENTS - 400 });
  expect(status.latencyDistribution).toHaveLength(32);
  expect(status.latencyDistribution.reduce((sum, count) => sum + count, 0)).toBe(402);
  const byThread = new Map(status.blocked.map(({ thread, faults }) => [thread, faults]));
  expect([...byThread].sort()).toEqual(
    [
      [one.thread, 300],
      [two.thread, 102],
    ].sort(),
  );
  for (const { blockedUs } of status.blocked) {
    expect(blockedUs).toBeGreaterThan(0);
    expect(blockedUs).toBeLessThan(60e6);
  }
  expect(status.worstLatencyUs).toBeGreaterThan(0);
});

testFaults('a page that a fault has asked for is left to it', async () => {
  const held = { page: 7, gate: new SharedArrayBuffer(4) };
  const { memory, missing, reads, openGate } = await served({ held });
  const gate = new Int32Array(held.gate);
  const release = () => {
    Atomics.store(gate, 0, 1);
    Atomics.notify(gate, 0);
  };
  ending.push(release);
  const reader = await toucher(memory);
  const checked = reader.touch({ do: 'check', block: 0, pages: [7] });
  while (missing.status().faults === 0) await setImmediate();
  openGate();
  while (missing.status().pagesMissing > 1) await setImmediate();
  expect([missing.status().pagesMissing, reads[7]]).toEqual([1, 0]);
  release();
  expect(await checked).toBe(0);
  await missing.whole;
  expect([reads[7], missing.status().duplicatePages]).toEqual([1, 0]);
});

testEach('what the guest writes is not overwritten by what comes later', async () => {
  const { memory, missing, openGate } = await served();
  const writer = await toucher(memory);
  for (const page of [0, 1, 2, 700, 1498]) await writer.touch({ do: 'store', block: 0, page, value: -page });
  await writer.touch({ do: 'store', block: 0, page: 4, value: 44 });
  openGate();
  await missing.whole;
  const words = (page: number) => {
    const bytes = memory.blocks[0]?.view(page * PAGE, 12) as Uint8Array;
    return [...new Int32Array(bytes.buffer, bytes.byteOffset, 3)];
  };
  for (const page of [1, 2, 700, 1498])
    expect(words(page)).toEqual([-page, wordOf(0, page, 1) | 0, wordOf(0, page, 2) | 0]);
  expect(words(4)).toEqual([44, 0, 0]);
});

testFaults('a device model on the event loop waits for memory without touching it', async () => {
  const { memory, missing, reads, openGate, atGate } = await served();
  // A page that is alone between pages that were asked for would pass the gate.
  await atGate();
  await memory.present(0, 10 * PAGE + 100, 3 * PAGE);
  // Pages 10 to 13; 14 is zero.
  expect([...reads.subarray(9, 16)]).toEqual([0, 1, 1, 1, 1, 0, 0]);
  expect(missing.status()).toMatchObject({ pagesMissing: CONTENTS - 4, faults: 0 });
  const bytes = memory.blocks[0]?.view(13 * PAGE, 4) as Uint8Array;
  expect(new Int32Array(bytes.buffer, bytes.byteOffset, 1)[0]).toBe(wordOf(0, 13, 0) | 0);
  // Nothing to wait for: zero, there, and no bytes at all.
  await memory.present(0, 14 * PAGE, PAGE);
  await memory.present(0, 10 * PAGE, 4 * PAGE);
  await memory.present(0, 20 * PAGE, 0);
  expect(reads[20]).toBe(0);
  expect(await errorOf(memory.present(0, PAGES * PAGE - 1, 2))).toMatchObject({ code: 'GODWIT_OUT_OF_RANGE' });
  expect(await errorOf(memory.present(2, 0, 1))).toMatchObject({ code: 'GODWIT_OUT_OF_RANGE' });
  await Promise.all([
    memory.present(0, 0, 200 * PAGE),
    memory.present(0, 100 * PAGE, 200 * PAGE),
    memory.present(1, 0, PAGE),
  ]);
  expect(reads.subarray(0, 300).every((count, page) => count === (hasContents(0, page) ? 1 : 0))).toBe(true);
  openGate();
  await missing.whole;
  await memory.present(0, 0, PAGES * PAGE);
});

testFaults(
  'a page that cannot be had stays missing: who needs it waits, and gets an error in the end, never zeros',
  async () => {
    const { memory, missing, lost } = await served({ broken: [3, 700], open: true });
    const error = await errorOf(missing.whole);
    expect(error).toMatchObject({ code: 'GODWIT_PAGES_MISSING' });
    expect(error.message).toContain('2 of 1240 pages');
    expect(error.message).toContain('page 3 of "low", page 700 of "low"');
    expect(lost.sort()).toEqual([expect.stringContaining('0/3: '), expect.stringContaining('0/700: ')]);
    const reader = await toucher(memory);
    // All others are there.
    const contents = all(0, (page) => hasContents(0, page) && page !== 3 && page !== 700);
    expect(await reader.touch({ do: 'check', block: 0, pages: contents })).toBe(0);
    expect(await errorOf(memory.present(0, 2 * PAGE, 4 * PAGE))).toMatchObject({ code: 'GODWIT_PAGES_MISSING' });
    const counter = eventfd(1);
    ending.push(() => closeFd(counter));
    let answered = false;
    const reading = reader.touch({ do: 'read', block: 0, page: 700, fd: counter }).finally(() => {
      answered = true;
    });
    while (missing.status().blocked.every(({ blockedUs }) => blockedUs < 50_000)) await memory.present(1, 0, PAGE);
    expect(answered).toBe(false);
    expect(missing.status()).toMatchObject({ pagesMissing: 2, pagesLost: 2, remainingMs: undefined });
    await missing.end();
    expect(await reading).toBe(-Errno.EFAULT);
  },
);

testFaults('a thread that dies is reported, and pages stay missing until the end', async () => {
  const watch = new ThreadWatch();
  ending.push(() => watch.stop());
  const { memory, missing } = await served();
  const reader = await toucher(memory);
  expect(await reader.touch({ do: 'check', block: 0, pages: [1] })).toBe(0);
  await watch.kill(0);
  expect(await errorOf(missing.whole)).toMatchObject({ code: 'GODWIT_PAGES_MISSING' });
  const counter = eventfd(1);
  ending.push(() => closeFd(counter));
  const reading = reader.touch({ do: 'read', block: 0, page: 700, fd: counter });
  const began = performance.now();
  // The loading thread hangs in its source, as in a disk that does not answer.
  await missing.end();
  expect(performance.now() - began).toBeLessThan(4_000);
  expect(await reading).toBe(-Errno.EFAULT);
});

testFaults('it can be ended in the middle', async () => {
  const { memory, missing, openGate } = await served();
  const reader = await toucher(memory);
  expect(await reader.touch({ do: 'check', block: 0, pages: [1] })).toBe(0);
  const ended = missing.end();
  openGate();
  await ended;
  expect(await errorOf(missing.whole)).toMatchObject({ code: 'GODWIT_PAGES_MISSING' });
  expect(await errorOf(memory.present(0, 1499 * PAGE - PAGE, PAGE))).toMatchObject({ code: 'GODWIT_PAGES_MISSING' });
});

testFaults('a page that comes after the end is dropped, and the memory is not served again', async () => {
  const memory = guest();
  const service = threads();
  const request = { memory, contents: contentsOf(memory), others: 'stay', source: undefined } as const;
  const missing = await service.serve(request);
  const sink = missing.sink();
  sink.put(0, 1, 1, 0);
  await missing.end();
  sink.put(0, 2, 1, 0);
  sink.putZero(0, 3, 1);
  expect(missing.status()).toMatchObject({ pagesMissing: CONTENTS - 1, duplicatePages: 0 });
  // A page that never came has a mark: a thread that touches it gets an error, and does not wait.
  expect(service.blockers(memory)).toEqual([expect.stringContaining('make new memory')]);
  expect(await errorOf(service.serve(request))).toMatchObject({ code: 'GODWIT_BLOCKED' });
});

testFaults('damage that no page shows is reported when all is there', async () => {
  const { missing } = await served({ badEnd: true, open: true });
  expect((await errorOf(missing.whole)).message).toContain('the index is damaged');
  expect(missing.status().pagesMissing).toBe(0);
});

testFaults('a source that cannot be made fails the call, and the memory is free again', async () => {
  const memory = guest();
  const service = threads();
  const pattern = { reads: new SharedArrayBuffer(4), gate: new SharedArrayBuffer(4), impossible: true };
  const source = {
    module: new URL('./pattern-source.js', import.meta.url).href,
    make: 'patternSource',
    options: pattern,
  };
  expect((await errorOf(service.serve({ memory, contents: contentsOf(memory), source }))).message).toContain(
    'no such source',
  );
  expect(service.blockers(memory)).toEqual([]);
  // No page is marked: in another attempt with the same memory a thread waits for its page.
  const missing = await service.serve({ memory, contents: contentsOf(memory), others: 'stay', source: undefined });
  ending.push(() => missing.end());
  const counter = eventfd(1);
  ending.push(() => closeFd(counter));
  let answered = false;
  const reading = (await toucher(memory)).touch({ do: 'read', block: 0, page: 1, fd: counter }).finally(() => {
    answered = true;
  });
  while (missing.status().faults === 0 && !answered) await setImmediate();
  missing.sink().put(0, 1, 1, 0);
  expect(await reading).toBe(8);
});

testFaults('memory that cannot be served is refused with its reasons', async () => {
  const service = threads();
  const memory = guest();
  expect(service.blockers(memory)).toEqual([]);
  const unpin = memory.blocks[1]?.pin({ firstPage: 0, pageCount: 1 });
  expect(service.blockers(memory)).toEqual([expect.stringContaining('"high" has pages that are pinned for a device')]);
  const contents = new DirtyBitmaps(memory);
  const source = { module: undefined, make: 'never', options: undefined };
  expect(await errorOf(service.serve({ memory, contents, source }))).toMatchObject({ code: 'GODWIT_BLOCKED' });
  unpin?.();
  const { hostAddress = 0n, byteLength = 0 } = memory.blocks[0] ?? {};
  const other = Userfaultfd.open(Uffd.UFFD_FEATURE_MISSING_SHMEM);
  other.register(hostAddress, byteLength, Uffd.UFFDIO_REGISTER_MODE_MISSING);
  expect(service.blockers(memory)).toEqual([expect.stringContaining('another userfaultfd has this range')]);
  other.close();
  const { blocks } = memory.attachment();
  const bare = attachGuestMemory({ blocks: blocks.map(({ fd, ...block }) => block) });
  expect(service.blockers(bare)).toEqual([
    expect.stringContaining('"low" was attached without its memory file'),
    expect.stringContaining('"high" was attached without its memory file'),
  ]);
  const shared = attachGuestMemory({ blocks: blocks.map((block) => ({ ...block, shared: true as const })) });
  expect(service.blockers(shared)[0]).toContain('"low" is shared with the source');
  expect(service.blockers({ pageSize: PAGE, blocks: [] as never })).toHaveLength(1);
  expect(service.blockers(memory)).toEqual([]);
});

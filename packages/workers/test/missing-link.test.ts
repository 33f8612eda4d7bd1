import { once } from 'node:events';
import { setImmediate as turn } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import {
  DirtyBitmaps,
  type FrameStream,
  type GodwitError,
  type IncomingLink,
  type LinkListener,
  type MissingMemory,
  type PageStream,
  type ReceivedFrame,
} from '@godwit/core';
import { createGuestMemory, hostSupport, type MappedGuestMemory } from '@godwit/linux';
import { type ByteStream, connectTo, listenOn, type Transport, tcp } from '@godwit/transport';
import { faultThreads, onWorkers } from '@godwit/workers';
import { describe, expect, test } from '@jest/globals';
import type { Touching } from './page-toucher.js';
import { PAGE, wordOf } from './pattern-source.js';
import { openSockets } from './still-guest.js';
import { endings, testFaults } from './userfault-tests.js';

const { userfaultfdKernelFaults } = hostSupport();
const usable = userfaultfdKernelFaults.usable;
const describeModes = (suite: (where: 'thread' | 'main thread') => void): void => {
  for (const where of ['thread', 'main thread'] as const) {
    if (usable) describe(`asked for on the ${where}`, () => suite(where));
    else describe.skip(`asked for on the ${where} (skipped: ${userfaultfdKernelFaults.reason})`, () => suite(where));
  }
};

const PAGES = 64;
const ID = '0123456789abcdef0123456789abcdef';

const ending = endings();

/** A source's end of urgent channels, which the test plays, and the destination's. */
class Channels {
  readonly #listener: LinkListener;
  readonly #transport: Transport;
  #count = 0;

  private constructor(listener: LinkListener, transport: Transport) {
    this.#listener = listener;
    this.#transport = transport;
  }

  /** `changed`: the transport of the source, made of the one that reaches the destination. */
  static async open(
    where: 'thread' | 'main thread',
    changed: (transport: Transport) => Transport = (transport) => transport,
  ): Promise<Channels> {
    const listening = await listenOn(tcp({ host: '127.0.0.1', port: 0 }));
    const listener = where === 'thread' ? onWorkers(listening) : listening;
    ending.push(() => listener.close());
    return new Channels(listener, changed(tcp({ host: '127.0.0.1', port: listening.listener.port })));
  }

  async make(): Promise<{ readonly source: FrameStream; readonly destination: PageStream }> {
    const signal = AbortSignal.timeout(60_000);
    const connection = ++this.#count;
    const accepting = this.#listener.accept(signal);
    const link = await connectTo(this.#transport).connect({ migrationId: ID, pageChannels: 1, connection }, signal);
    await link.control.write({
      ...{ type: 'hello', minimumVersion: 2, maximumVersion: 2, migrationId: ID, software: 'test', pageSize: PAGE },
      ...{ blocks: [], devices: [], features: [], pageChannels: 1, description: null, connection, stage: 'running' },
      attempt: 1,
    });
    const incoming: IncomingLink = await accepting;
    await incoming.control.read();
    const [destination] = await incoming.pageChannels(ID, 1, signal);
    const [source] = link.pageChannels;
    if (source === undefined || destination === undefined) throw new Error('there is no channel');
    ending.push(
      () => link.control.abort(OVER),
      () => incoming.control.abort(OVER),
      () => source.abort(OVER),
      async () => {
        destination.abort(OVER);
        await destination.settled?.();
      },
    );
    return { source, destination };
  }
}

/** A transport whose streams carry only the first `limit.bytes` bytes of each write, once that is set. */
function cutting(transport: Transport, limit: { bytes?: number }): Transport {
  return {
    listen: (signal) => transport.listen(signal),
    async connect(signal): Promise<ByteStream> {
      const stream = await transport.connect(signal);
      return {
        peer: stream.peer,
        write: (chunks) =>
          stream.write(limit.bytes === undefined ? chunks : [Buffer.concat(chunks).subarray(0, limit.bytes)]),
        read: (into, wanted) => stream.read(into, wanted),
        close: () => stream.close(),
        abort: (reason) => stream.abort(reason),
      };
    },
  };
}

const OVER = new (class extends Error {
  readonly code = 'GODWIT_LINK_LOST';
})('the test is over') as unknown as GodwitError;

function guest(): MappedGuestMemory {
  const memory = createGuestMemory({
    blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength: PAGES * PAGE }],
  });
  ending.push(() => memory.close());
  return memory;
}

/** The even pages are missing; the odd ones are here, and have 0x77 in them. */
async function served(memory: MappedGuestMemory): Promise<MissingMemory> {
  memory.blocks[0]?.view(0, PAGES * PAGE).fill(0x77);
  const contents = new DirtyBitmaps(memory);
  for (let page = 0; page < PAGES; page += 2) contents.at(0).set(page);
  const service = faultThreads();
  ending.push(() => service.close());
  const missing = await service.serve({ memory, contents, others: 'stay', source: undefined });
  ending.push(() => missing.undo());
  return missing;
}

async function toucher(memory: MappedGuestMemory): Promise<(touching: Touching) => Promise<number>> {
  const worker = new Worker(new URL('./page-toucher.js', import.meta.url), { workerData: memory.attachment() });
  ending.push(() => worker.terminate());
  await once(worker, 'message');
  return async (touching) => {
    worker.postMessage(touching);
    const [answer] = (await once(worker, 'message')) as [number];
    return answer;
  };
}

function pattern(page: number): Uint8Array {
  const words = Int32Array.from({ length: PAGE / 4 }, (_, i) => wordOf(0, page, i));
  return new Uint8Array(words.buffer);
}

async function asked(source: FrameStream): Promise<number> {
  const { frame } = (await source.read()) as ReceivedFrame;
  if (frame.type !== 'requestPages') throw new Error(`a "${frame.type}" frame came`);
  expect(frame).toMatchObject({ block: 0, pages: 1 });
  return frame.page;
}

function answer(source: FrameStream, ...pages: number[]): Promise<void> {
  return source.write(
    { type: 'pages', round: 0, block: 0, runs: pages.flatMap((page) => [page, 1]) },
    pages.map(pattern),
  );
}

const check = (...pages: number[]): Touching => ({ do: 'check', block: 0, pages });

describeModes((where) => {
  test('a page comes when it is waited for, with others behind it; pages that stay are not asked for', async () => {
    const memory = guest();
    const missing = await served(memory);
    const channels = await Channels.open(where);
    const { source, destination } = await channels.make();
    missing.askOver(destination, () => {});
    const touch = await toucher(memory);
    const touching = touch(check(4));
    expect(await asked(source)).toBe(4);
    expect(missing.status().waitingUs).toBeGreaterThan(0);
    await answer(source, 4);
    // Behind it what the source guesses: one of them comes a second time, and stays as it is.
    await answer(source, 4, 6, 8);
    expect(await touching).toBe(0);
    await answer(source, 10);
    expect(await touch(check(6, 8, 10))).toBe(0);
    expect(await touch({ do: 'check', block: 0, pages: [5], zero: true })).toBe(1);
    expect(memory.blocks[0]?.view(5 * PAGE, 1)[0]).toBe(0x77);
    expect(missing.status()).toMatchObject({ pagesMissing: PAGES / 2 - 4, duplicatePages: 1, waitingUs: 0 });
    // A device model waits as a vCPU does.
    const present = missing.present(0, 12 * PAGE, 1);
    const first = await asked(source);
    // Page 10 may have been touched before it had come: then it was asked for too.
    expect(first === 10 ? await asked(source) : first).toBe(12);
    expect(missing.status().waitingUs).toBeGreaterThan(0);
    await answer(source, 12);
    await present;
    expect(missing.status().waitingUs).toBe(0);
  });

  test('after a lost link what is waited for is asked for again, and nothing that has come', async () => {
    const memory = guest();
    const missing = await served(memory);
    const channels = await Channels.open(where);
    const first = await channels.make();
    const lost = new Promise<GodwitError>((resolve) => missing.askOver(first.destination, resolve));
    const [one, two] = [await toucher(memory), await toucher(memory)];
    const waits = [one(check(2)), two(check(20))];
    const both = [await asked(first.source), await asked(first.source)].sort((a, b) => a - b);
    expect(both).toEqual([2, 20]);
    await answer(first.source, 2);
    expect(await waits[0]).toBe(0);
    first.source.abort(OVER);
    expect((await lost).code).toBe('GODWIT_LINK_LOST');
    // Somebody begins to wait while there is no link.
    const third = one(check(30));
    const second = await channels.make();
    missing.askOver(second.destination, () => {});
    const again = [await asked(second.source), await asked(second.source)].sort((a, b) => a - b);
    expect(again).toEqual([20, 30]);
    await answer(second.source, 20, 30);
    expect([await waits[1], await third]).toEqual([0, 0]);
    expect(missing.missing().count()).toBe(PAGES / 2 - 3);
    expect(missing.missing().at(0).nextDirty(20)).toBe(22);
  });

  test.each([
    ['a page past the end', { type: 'pages', round: 0, block: 0, runs: [PAGES, 1] }, 'GODWIT_OUT_OF_RANGE'],
    ['a page of another block', { type: 'pages', round: 0, block: 1, runs: [0, 1] }, 'GODWIT_OUT_OF_RANGE'],
    ['a page of a round', { type: 'pages', round: 3, block: 0, runs: [2, 1] }, 'GODWIT_PROTOCOL'],
    ['more pages than bytes', { type: 'pages', round: 0, block: 0, runs: [2, 2] }, 'GODWIT_PROTOCOL'],
  ] as const)('an answer with %s ends the link with a code, and puts nothing', async (_, frame, code) => {
    const memory = guest();
    const missing = await served(memory);
    const channels = await Channels.open(where);
    const { source, destination } = await channels.make();
    const lost = new Promise<GodwitError>((resolve) => missing.askOver(destination, resolve));
    await source.write({ ...frame, runs: [...frame.runs] }, [pattern(2)]);
    expect((await lost).code).toBe(code);
    expect(missing.status()).toMatchObject({ pagesMissing: PAGES / 2, duplicatePages: 0 });
  });

  test('pages that others put end the waits for them, and the last one makes the memory whole', async () => {
    const memory = guest();
    const missing = await served(memory);
    const channels = await Channels.open(where);
    const { source, destination } = await channels.make();
    missing.askOver(destination, () => {});
    const touch = await toucher(memory);
    const touching = touch(check(2));
    expect(await asked(source)).toBe(2);
    const sink = missing.sink();
    for (let page = 0; page < PAGES; page += 2) {
      if (page === 12) sink.putZero(0, 12, 1);
      else {
        sink.bytes.set(pattern(page), PAGE);
        sink.put(0, page, 1, PAGE);
      }
    }
    missing.arrived();
    await missing.whole;
    expect(await touching).toBe(0);
    expect(missing.status()).toMatchObject({ pagesMissing: 0, faults: 1 });
    expect(memory.blocks[0]?.view(12 * PAGE, 1)[0]).toBe(0);
  });

  test('a page that is said to be zero wakes who waits for it, whatever becomes of the answer', async () => {
    const memory = guest();
    const missing = await served(memory);
    const channels = await Channels.open(where);
    const { source, destination } = await channels.make();
    const lost = new Promise<GodwitError>((resolve) => missing.askOver(destination, resolve));
    const touch = await toucher(memory);
    const touching = touch({ do: 'check', block: 0, pages: [12], zero: true });
    expect(await asked(source)).toBe(12);
    source.abort(OVER);
    await lost;
    missing.sink().putZero(0, 12, 1);
    missing.arrived();
    expect(await touching).toBe(0);
    expect(missing.status()).toMatchObject({ pagesMissing: PAGES / 2 - 1 });
  });

  test('undone, the memory is as any other: a page that never came is zero, and nobody waits', async () => {
    const memory = guest();
    const missing = await served(memory);
    const touch = await toucher(memory);
    const touching = touch({ do: 'check', block: 0, pages: [8], zero: true });
    await missing.undo();
    expect(await touching).toBe(0);
    expect(memory.missing).toBeUndefined();
    memory.blocks[0]?.view(8 * PAGE, PAGE).set(pattern(8));
    expect(await touch(check(8))).toBe(0);
    await expect(missing.whole).rejects.toMatchObject({ code: 'GODWIT_PAGES_MISSING' });
  });
});

testFaults('an answer that breaks off counts as a wait, since the thread reads no fault until its end', async () => {
  const memory = guest();
  const missing = await served(memory);
  const limit: { bytes?: number } = {};
  const channels = await Channels.open('thread', (transport) => cutting(transport, limit));
  const { source, destination } = await channels.make();
  missing.askOver(destination, () => {});
  const touch = await toucher(memory);
  const touching = touch(check(4));
  expect(await asked(source)).toBe(4);
  await answer(source, 4);
  expect(await touching).toBe(0);
  // Nobody waits for these: they are sent ahead.
  limit.bytes = 1000;
  await answer(source, 6, 8);
  while (missing.status().waitingUs < 100_000) await turn();
  expect(missing.status().blocked).toMatchObject([{ faults: 1 }]);
});

test('threads that end while they warm up, at any moment, leave no socket', async () => {
  const before = openSockets();
  for (let turns = 0; turns < 20; turns++) {
    const service = faultThreads();
    await service.ready();
    for (let i = 0; i < turns; i++) await new Promise((resolve) => setImmediate(resolve));
    await service.close();
  }
  expect(openSockets()).toBe(before);
});

test('a link that comes when the service ends is closed with it', async () => {
  const channels = await Channels.open('thread');
  const before = openSockets();
  for (let i = 0; i < 5; i++) {
    const memory = guest();
    const missing = await served(memory);
    const { source, destination } = await channels.make();
    missing.askOver(destination, () => {});
    await missing.undo();
    source.abort(OVER);
    destination.abort(OVER);
    await destination.settled?.();
  }
  for (const end of ending.splice(1).reverse()) await end();
  expect(openSockets()).toBe(before);
});

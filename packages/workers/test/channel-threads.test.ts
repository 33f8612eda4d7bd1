import { once } from 'node:events';
import { availableParallelism } from 'node:os';
import { setImmediate } from 'node:timers/promises';
import { type GuestMemory, migrate, receive } from '@godwit/core';
import { channelThreads, onWorkers, pageChannelsFor } from '@godwit/workers';
import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { closeEnds, ends, move } from './socket-ends.js';
import { StillGuest } from './still-guest.js';
import { ThreadWatch } from './threads.js';

jest.setTimeout(120_000);

let threads: ThreadWatch;

beforeEach(() => {
  threads = new ThreadWatch();
});

afterEach(async () => {
  await closeEnds();
  threads.stop();
});

test('threads that a listener has started beforehand are used, and ended when it closes', async () => {
  const { connector, listener } = await ends('tcp');
  const ready = onWorkers(listener, { threads: 3 });
  expect(threads.started.length).toBe(3);
  await move({ connector, listener: ready }, { pageChannels: 2 });
  expect(threads.started.length).toBe(3);
  expect(threads.alive.size).toBe(1);
  await ready.close();
  expect(threads.alive.size).toBe(0);
});

test("threads that were started before there were links serve either end, and stay their owner's", async () => {
  const before = threads.started.length;
  const waiting = channelThreads(3);
  await waiting.ready();
  expect([threads.started.length - before, threads.alive.size]).toEqual([3, 3]);
  const first = await ends('tcp');
  const listener = onWorkers(first.listener, { threads: waiting });
  await move({ connector: first.connector, listener }, { pageChannels: 2 });
  await listener.close();
  expect([threads.started.length - before, threads.alive.size]).toEqual([3, 1]);
  // The two that the page channels have taken are replaced.
  await waiting.ready();
  expect([threads.started.length - before, threads.alive.size]).toEqual([5, 3]);
  const second = await ends('tcp');
  await move(
    { connector: onWorkers(second.connector, { threads: waiting }), listener: second.listener },
    { pageChannels: 4 },
  );
  // A page channel that finds no thread starts one.
  expect([threads.started.length - before, threads.alive.size]).toEqual([6, 0]);
  await waiting.ready();
  await waiting.close();
  expect(threads.alive.size).toBe(0);
  await waiting.ready();
  expect(threads.alive.size).toBe(0);
});

test('the last stream takes the thread that has made ready to answer, and the others leave it there', async () => {
  const waiting = channelThreads(3, { postcopy: true });
  await waiting.ready();
  const [answering, second, third] = threads.started;
  expect(waiting.take().worker).toBe(second);
  expect(waiting.take(true).worker).toBe(answering);
  // Only one makes ready; without it the last stream takes any.
  expect([waiting.take(true).worker, waiting.take(true).worker]).toEqual([third, threads.started[3]]);
  for (const worker of threads.started) worker.postMessage({ type: 'close' });
  await waiting.close();
  await Promise.all([...threads.alive].map((worker) => once(worker, 'exit')));
});

test('a thread that makes ready to answer takes orders meanwhile, at any moment', async () => {
  for (let turns = 0; turns < 4; turns++) {
    const waiting = channelThreads(2, { postcopy: true });
    if (turns > 0) await waiting.ready();
    for (let i = 1; i < turns; i++) await setImmediate();
    const { connector, listener } = await ends('tcp');
    await move({ connector: onWorkers(connector, { threads: waiting }), listener }, { pageChannels: 2 });
    await waiting.close();
    expect(threads.alive.size).toBe(0);
  }
});

test('links whose threads were stopped have no page channels, and the guest stays where it is', async () => {
  const { connector, listener } = await ends('tcp');
  const stopped = channelThreads(1);
  await stopped.close();
  const source = new StillGuest(true);
  const target = new StillGuest(false);
  const incoming = receive(listener, { prepare: () => target, reconnectTimeoutMs: 100 });
  const failed = expect(incoming.result).rejects.toThrow();
  const { result } = migrate(source, onWorkers(connector, { threads: stopped }), { pageChannels: 1 });
  await expect(result).rejects.toMatchObject({ code: 'GODWIT_INVALID_STATE' });
  incoming.cancel('nobody comes');
  await failed;
  expect([source.running, target.running]).toEqual([true, false]);
  source.memory.close();
  target.memory.close();
});

test('as many page channels as this host and this memory want', () => {
  const guest = new StillGuest(true);
  const few = availableParallelism() >= 4 ? 2 : 1;
  expect(pageChannelsFor(guest.memory)).toBe(few);
  const large = [{ byteLength: 2 ** 29 }, { byteLength: 2 ** 29 }] as unknown as GuestMemory['blocks'];
  expect(pageChannelsFor({ blocks: large })).toBe(availableParallelism() >= 2 ? 2 : 1);
  guest.memory.close();
});

test('those that a connector has started are used too, and stay for the next one when nobody could be reached', async () => {
  const { connector, listener } = await ends('tcp');
  const refused = { ...connector, connect: () => Promise.reject(new Error('there is nobody')) };
  const ready = onWorkers(refused, { threads: 2 });
  expect(threads.started.length).toBe(2);
  const source = new StillGuest(true);
  await expect(migrate(source, ready, { pageChannels: 3 }).result).rejects.toThrow('there is nobody');
  expect([threads.started.length, threads.alive.size]).toEqual([2, 2]);
  source.memory.close();
  await Promise.all([threads.kill(0), threads.kill(1)]);
  const used = onWorkers(connector, { threads: 2 });
  await move({ connector: used, listener }, { pageChannels: 2 });
  expect([threads.started.length, threads.alive.size]).toEqual([4, 0]);
});

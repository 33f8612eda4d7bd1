import net from 'node:net';
import { type LinkConnector, type LinkListener, type Migration, migrate, type Reception, receive } from '@godwit/core';
import { connectTo, listenOn, type TcpListener, tcp } from '@godwit/transport';
import { onWorkers } from '@godwit/workers';
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { MIB, openSockets, StillGuest } from './still-guest.js';
import { ThreadWatch } from './threads.js';

jest.setTimeout(120_000);

/** Slow enough that a migration of 32 MiB is under way when something happens to it. */
const SLOWLY = { pageChannels: 3, bandwidthLimit: 8 * MIB, progressIntervalMs: 10 };

let threads: ThreadWatch;
let sockets: number;
let source: StillGuest;
let target: StillGuest;
let listening: Awaited<ReturnType<typeof listenOn<TcpListener>>>;
beforeEach(async () => {
  threads = new ThreadWatch();
  source = new StillGuest(true);
  target = new StillGuest(false);
  source.fill();
  sockets = openSockets();
  listening = await listenOn(tcp({ port: 0 }));
});
afterEach(async () => {
  await listening.close();
  threads.stop();
  source.memory.close();
  target.memory.close();
});

interface Run {
  readonly migration: Migration;
  readonly reception: Reception;
}

function start(connector: LinkConnector, listener: LinkListener): Run {
  const reception = receive(listener, { prepare: () => target });
  reception.result.catch(() => undefined);
  const migration = migrate(source, connector, SLOWLY);
  migration.result.catch(() => undefined);
  return { migration, reception };
}

/** Resolves when pages are on their way. */
function underWay({ migration }: Run): Promise<void> {
  return new Promise((resolve) => {
    migration.subscribe({
      next: (event) => {
        if (event.type === 'progress' && event.progress.pages.raw > 0) resolve();
      },
      error: () => undefined,
    });
  });
}

/** Both sides have failed, the guest runs on at the source, and nothing is left. */
async function expectLost({ migration, reception }: Run, sourceError: object, targetError: object): Promise<void> {
  const [there, here] = await Promise.allSettled([reception.result, migration.result]);
  expect(here).toMatchObject({ status: 'rejected', reason: sourceError });
  expect(there).toMatchObject({ status: 'rejected', reason: targetError });
  expect(source.running).toBe(true);
  expect(target.running).toBe(false);
  expect(target.abandoned).toBeDefined();
  expect(threads.alive.size).toBe(0);
  await listening.close();
  expect(openSockets()).toBe(sockets);
}

const bothOnWorkers = (): Run =>
  start(onWorkers(connectTo(tcp({ port: listening.listener.port }))), onWorkers(listening));

test('a migration that is cancelled leaves no thread and no socket', async () => {
  const run = bothOnWorkers();
  await underWay(run);
  run.migration.cancel();
  await expectLost(run, { code: 'GODWIT_CANCELLED' }, { code: 'GODWIT_CANCELLED', remote: true });
});

test('a reception that is cancelled leaves no thread and no socket', async () => {
  const run = bothOnWorkers();
  await underWay(run);
  run.reception.cancel();
  await expectLost(run, { code: 'GODWIT_CANCELLED', remote: true }, { code: 'GODWIT_CANCELLED' });
});

describe('a thread that dies is a lost link', () => {
  test.each(['source', 'destination'])('at the %s', async (side) => {
    const connector = connectTo(tcp({ port: listening.listener.port }));
    const run = start(
      side === 'source' ? onWorkers(connector) : connector,
      side === 'destination' ? onWorkers(listening) : listening,
    );
    await underWay(run);
    expect(threads.started.length).toBe(3);
    await threads.started[1]?.terminate();
    await expectLost(run, { code: 'GODWIT_LINK_LOST' }, { code: 'GODWIT_LINK_LOST' });
    const [error] = await Promise.allSettled([side === 'source' ? run.migration.result : run.reception.result]);
    expect(String((error as PromiseRejectedResult).reason)).toMatch(/thread of page channel|page channel \d|closed/);
  });
});

test('one channel that is cut is a lost link', async () => {
  const relayed: net.Socket[] = [];
  const relay = net.createServer((incoming) => {
    const outgoing = net.connect(listening.listener.port);
    relayed.push(incoming, outgoing);
    for (const socket of [incoming, outgoing]) socket.on('error', () => undefined);
    incoming.pipe(outgoing).pipe(incoming);
  });
  await new Promise<void>((resolve) => relay.listen(0, resolve));
  const connector = connectTo(tcp({ port: (relay.address() as net.AddressInfo).port }));
  const run = start(onWorkers(connector), onWorkers(listening));
  await underWay(run);
  // The control stream is the first, and not cut.
  for (const socket of relayed.slice(4, 6)) socket.resetAndDestroy();
  const [there, here] = await Promise.allSettled([run.reception.result, run.migration.result]);
  expect(here).toMatchObject({ status: 'rejected', reason: { code: 'GODWIT_LINK_LOST' } });
  expect(there).toMatchObject({ status: 'rejected', reason: { code: 'GODWIT_LINK_LOST' } });
  expect(source.running).toBe(true);
  expect(target.running).toBe(false);
  expect(threads.alive.size).toBe(0);
  for (const socket of relayed) socket.destroy();
  await new Promise((resolve) => relay.close(resolve));
});

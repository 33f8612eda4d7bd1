import net from 'node:net';
import {
  type IncomingMigration,
  type LinkConnector,
  type LinkListener,
  type Migration,
  migrate,
  receive,
} from '@godwit/core';
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
  readonly incoming: IncomingMigration;
}

function start(connector: LinkConnector, listener: LinkListener, reconnectTimeoutMs = 0): Run {
  const incoming = receive(listener, { prepare: () => target, reconnectTimeoutMs });
  incoming.result.catch(() => undefined);
  const migration = migrate(source, connector, { ...SLOWLY, reconnectTimeoutMs });
  migration.result.catch(() => undefined);
  return { migration, incoming };
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
async function expectLost({ migration, incoming }: Run, sourceError: object, targetError: object): Promise<void> {
  const [there, here] = await Promise.allSettled([incoming.result, migration.result]);
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

test('an incoming migration that is cancelled leaves no thread and no socket', async () => {
  const run = bothOnWorkers();
  await underWay(run);
  run.incoming.cancel();
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
    await threads.kill(1);
    await expectLost(run, { code: 'GODWIT_LINK_LOST' }, { code: 'GODWIT_LINK_LOST' });
  });
});

/** A relay to the destination, whose connections can be cut. */
class Relay {
  readonly #server: net.Server;
  /** The two sockets of each connection, in the order of the connections. */
  readonly connections: (readonly [net.Socket, net.Socket])[] = [];

  constructor(port: number) {
    this.#server = net.createServer((incoming) => {
      const outgoing = net.connect(port);
      this.connections.push([incoming, outgoing]);
      for (const socket of [incoming, outgoing]) socket.on('error', () => undefined);
      incoming.pipe(outgoing).pipe(incoming);
    });
  }

  async listen(): Promise<LinkConnector> {
    await new Promise<void>((resolve) => this.#server.listen(0, resolve));
    return connectTo(tcp({ port: (this.#server.address() as net.AddressInfo).port }));
  }

  cut(connection: number): void {
    for (const socket of this.connections[connection] ?? []) socket.resetAndDestroy();
  }

  async close(): Promise<void> {
    for (const socket of this.connections.flat()) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

test('one channel that is cut is a lost link', async () => {
  const relay = new Relay(listening.listener.port);
  const run = start(onWorkers(await relay.listen()), onWorkers(listening));
  await underWay(run);
  // The control stream is the first.
  relay.cut(2);
  const [there, here] = await Promise.allSettled([run.incoming.result, run.migration.result]);
  expect(here).toMatchObject({ status: 'rejected', reason: { code: 'GODWIT_LINK_LOST' } });
  expect(there).toMatchObject({ status: 'rejected', reason: { code: 'GODWIT_LINK_LOST' } });
  expect(source.running).toBe(true);
  expect(target.running).toBe(false);
  expect(threads.alive.size).toBe(0);
  await relay.close();
});

describe('with time to reconnect the migration goes on, on new threads', () => {
  async function expectMoved({ migration, incoming }: Run): Promise<void> {
    migration.adjust({ bandwidthLimit: 0 });
    const [summary] = await Promise.all([migration.result, incoming.result]);
    expect(target.running).toBe(true);
    expect(source.running).toBe(false);
    expect(source.equals(target)).toBe(true);
    expect(summary.pages.raw).toBeGreaterThan(0);
    expect(threads.started.length).toBe(12);
    expect(threads.alive.size).toBe(0);
  }

  test('after a channel was cut', async () => {
    const relay = new Relay(listening.listener.port);
    const run = start(onWorkers(await relay.listen()), onWorkers(listening), 60_000);
    await underWay(run);
    relay.cut(3);
    await expectMoved(run);
    await relay.close();
  });

  test('after a thread has died', async () => {
    const connector = onWorkers(connectTo(tcp({ port: listening.listener.port })));
    const run = start(connector, onWorkers(listening), 60_000);
    await underWay(run);
    await threads.kill(1);
    await expectMoved(run);
  });
});

import { createServer, connect as dial, type Socket } from 'node:net';
import {
  type GodwitError,
  type IncomingMigration,
  type MigrateOptions,
  type MigrationEvent,
  type MigrationSummary,
  migrate,
  receive,
  roundCap,
} from '@godwit/core';
import { FaultyDevice, ToyVm } from '@godwit/core/testing';
import { connectTo, frameStream, type ListeningLinks, listenOn, type TcpListener, tcp } from '@godwit/transport';
import { describe, expect, jest, test } from '@jest/globals';

jest.setTimeout(120_000);

const PAGE = 4096;
const PAGES = 16_384;
const BLOCKS = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: PAGES * PAGE }];

/** A network between the two: passes bytes on, and resets every connection each time that so many have passed. */
class Relay {
  readonly #server = createServer((socket) => this.#serve(socket));
  readonly #sockets = new Set<Socket>();
  readonly #to: number;
  #left: number;
  readonly #every: number;
  #cuts: number;
  cuts = 0;

  constructor(to: number, every: number, cuts: number) {
    this.#to = to;
    this.#every = every;
    this.#left = every;
    this.#cuts = cuts;
  }

  async listen(): Promise<number> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
    return (this.#server.address() as { port: number }).port;
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #serve(near: Socket): void {
    const far = dial(this.#to, '127.0.0.1');
    for (const [from, into] of [
      [near, far],
      [far, near],
    ] as const) {
      this.#sockets.add(from);
      from.on('error', () => {});
      from.on('close', () => {
        this.#sockets.delete(from);
        into.destroy();
      });
      from.on('data', (bytes) => {
        this.#left -= bytes.length;
        if (this.#left <= 0 && this.cuts < this.#cuts) {
          this.cuts++;
          this.#left = this.#every;
          for (const socket of this.#sockets) socket.resetAndDestroy();
        } else if (!into.destroyed && !into.write(bytes)) {
          // What the relay itself holds is lost with a connection: little, then.
          from.pause();
          into.once('drain', () => from.resume());
        }
      });
      from.on('end', () => into.end());
    }
  }
}

test.each([0, 3])('over TCP, with connections reset again and again (%i page channels)', async (pageChannels) => {
  const source = new ToyVm(BLOCKS);
  const contents = new Uint8Array(PAGE);
  for (let page = 0; page < PAGES; page++) {
    contents.fill(page);
    contents.set([page & 255, page >> 8, 77], 1000);
    source.write(0, page * PAGE, contents);
  }
  source.devices = [new FaultyDevice('uart', new Uint8Array(100_000).fill(3))];
  const device = new FaultyDevice('uart');
  const destination = new ToyVm(BLOCKS, { running: false, devices: [device] });
  const links = await listenOn(tcp({ port: 0 }));
  const relay = new Relay(links.listener.port, 9_000_000, 5);
  const port = await relay.listen();
  const events: MigrationEvent[] = [];
  try {
    const incoming = receive(links, { prepare: () => destination });
    const migration = migrate(source, connectTo(tcp({ port })), {
      verify: true,
      pageChannels,
      policy: roundCap(3, 'switchover'),
    });
    migration.subscribe({
      next: (event) => {
        events.push(event);
        if (event.type === 'reconnected') source.write(0, (event.connection % 9) * PAGE, Uint8Array.of(200));
      },
      error: () => {},
    });
    const [summary] = await Promise.all([migration.result, incoming.result]);
    expect(relay.cuts).toBe(5);
    expect(source.memory.firstDifference(destination.memory)).toBeUndefined();
    expect([source.running, destination.running, summary.verified]).toEqual([false, true, true]);
    expect(device.state.byteLength).toBe(100_000);
    // How much of what was sent is lost with a reset connection is the kernel's business; that all arrives is ours.
    expect(events.filter(({ type }) => type === 'reconnected').length).toBeGreaterThanOrEqual(5);
  } finally {
    await links.close();
    await relay.close();
  }
});

/** The outcome of the migration of a guest of 64 MiB over `links`. */
async function outcomeOf(
  links: ListeningLinks<TcpListener>,
  pageChannels: number,
  incoming: IncomingMigration,
  options: MigrateOptions = {},
): Promise<MigrationSummary | GodwitError> {
  const source = new ToyVm(BLOCKS);
  const contents = new Uint8Array(PAGE).fill(7);
  for (let page = 0; page < PAGES; page++) source.write(0, page * PAGE, contents);
  incoming.result.catch(() => undefined);
  const migration = migrate(source, connectTo(tcp({ port: links.listener.port })), { pageChannels, ...options });
  const outcome = await migration.result.catch((error: GodwitError) => error);
  expect(source.running).toBe(outcome instanceof Error);
  return outcome;
}

/** Resolves when the listener's patience with a silent stream, which began now, has come to its end. */
async function patienceEnds({ listener }: ListeningLinks<TcpListener>): Promise<void> {
  const silent = frameStream(await tcp({ port: listener.port }).connect());
  expect((await silent.read())?.frame).toMatchObject({ type: 'error', code: 'GODWIT_TIMEOUT' });
  await silent.close();
}

describe.each([0, 4])('with %i page channels', (pageChannels) => {
  test('a VM that takes longer to build than a listener waits for a first frame', async () => {
    const links = await listenOn(tcp({ port: 0 }), { handshakeTimeoutMs: 300 });
    const incoming = receive(links, {
      prepare: async () => {
        await patienceEnds(links);
        return new ToyVm(BLOCKS, { running: false });
      },
    });
    expect(await outcomeOf(links, pageChannels, incoming)).toMatchObject({ totalMs: expect.any(Number) });
    await incoming.result;
    await links.close();
  });

  test('a destination that refuses late is heard, and not the streams that break', async () => {
    const links = await listenOn(tcp({ port: 0 }), { handshakeTimeoutMs: 300 });
    const incoming = receive(links, {
      prepare: async () => {
        await patienceEnds(links);
        throw new Error('no room for this guest');
      },
    });
    expect(await outcomeOf(links, pageChannels, incoming)).toMatchObject({
      code: 'GODWIT_PREPARE_FAILED',
      message: expect.stringContaining('no room for this guest'),
      remote: true,
    });
    await links.close();
  });

  test.each([0, 20, 200])('a destination that gives up after %i turns of pages is heard', async (turns) => {
    const links = await listenOn(tcp({ port: 0 }));
    const incoming = receive(links, { prepare: () => new ToyVm(BLOCKS, { running: false }) });
    incoming.subscribe({
      next: async (event) => {
        if (event.type !== 'state' || event.state !== 'active') return;
        for (let turn = 0; turn < turns; turn++) await new Promise((resolve) => setImmediate(resolve));
        incoming.cancel();
      },
      error: () => {},
    });
    const outcome = outcomeOf(links, pageChannels, incoming, { pauseBeforeSwitchover: true });
    expect(await outcome).toMatchObject({ code: 'GODWIT_CANCELLED', remote: true });
    await links.close();
  });
});

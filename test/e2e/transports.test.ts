import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { watch } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { MessageChannel, Worker } from 'node:worker_threads';
import { type LinkConnector, type LinkListener, migrate, receive } from '@godwit/core';
import type { VirtualMachine } from '@godwit/example-node-vmm';
import {
  connectTo,
  exec,
  type Listener,
  listenOn,
  memory,
  messagePort,
  type Transport,
  tcp,
  tls,
  unix,
  webSocket,
} from '@godwit/transport';
import { testCertificate } from '@godwit/transport/testing';
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { LiveGuest } from '../guest/live-guest.js';
import type { Arrival } from './arrival.js';

jest.setTimeout(120_000);

const ARRIVAL = fileURLToPath(new URL('./arrival.js', import.meta.url));

/** A transport with its listening end in this process, made for one migration. */
interface Pair {
  readonly listening: Transport;
  /** The connecting end; the other end listens at this address by then. */
  readonly connecting: (address: URL) => Transport;
}

const folder = mkdtempSync(join(tmpdir(), 'godwit-transports-'));
const authority = testCertificate('authority');
const server = testCertificate('destination', { signer: authority, hosts: ['127.0.0.1'] });
const client = testCertificate('source', { signer: authority });
const trust = { ca: authority.cert };
const host = '127.0.0.1';
const portOf = (address: URL) => ({ host, port: Number(address.port) });

const PAIRS: Readonly<Record<string, () => Pair>> = {
  tcp: () => ({ listening: tcp({ host, port: 0 }), connecting: (address) => tcp(portOf(address)) }),
  unix: () => {
    const path = join(folder, 'socket');
    return { listening: unix({ path }), connecting: () => unix({ path }) };
  },
  tls: () => ({
    listening: tls({ host, port: 0, ...trust, cert: server.cert, key: server.key }),
    connecting: (address) => tls({ ...portOf(address), ...trust, cert: client.cert, key: client.key }),
  }),
  webSocket: () => ({
    listening: webSocket({ url: `ws://${host}:0/` }),
    connecting: (address) => webSocket({ url: address.href }),
  }),
  memory: () => {
    const both = memory();
    return { listening: both, connecting: () => both };
  },
};

let guest: LiveGuest;

beforeAll(async () => {
  guest = await LiveGuest.boot();
});

afterAll(async () => {
  await guest.close();
  rmSync(folder, { recursive: true });
});

function leave(connector: LinkConnector, pageChannels: number) {
  const { machine } = guest;
  return migrate(machine, connector, { description: machine.description, pageChannels, verify: true }).result;
}

function arrive(links: LinkListener) {
  return receive(links, { prepare: (description) => guest.blank(description) }).result;
}

describe.each(Object.keys(PAIRS))('a live guest crosses %s', (name) => {
  test.each([0, 1, 2, 8])('with %i page channels, every page compared', async (pageChannels) => {
    const pair = (PAIRS[name] as () => Pair)();
    const links = await listenOn<Listener>(pair.listening);
    try {
      const connector = connectTo(pair.connecting(new URL(links.address)));
      const [summary, { vm }] = await Promise.all([leave(connector, pageChannels), arrive(links)]);
      expect(summary.verified).toBe(true);
      expect(guest.machine.state).toBe('paused');
      await guest.moved(vm as VirtualMachine);
      expect(await guest.examine()).toEqual([]);
    } finally {
      await links.close();
    }
  });
});

/** Each test that moves a guest out of this process boots a guest of its own. */
describe('a live guest leaves this thread', () => {
  beforeAll(async () => {
    await guest.close();
    guest = await LiveGuest.boot();
  });

  async function crosses(connector: LinkConnector, pageChannels: number, arrived: () => Promise<Arrival>) {
    const { verified } = await leave(connector, pageChannels);
    expect(verified).toBe(true);
    expect(guest.machine.state).toBe('paused');
    expect(await arrived()).toEqual({ running: true, problems: [] });
    await guest.close();
    guest = await LiveGuest.boot();
  }

  test('by exec, for the standard input and output of a command', async () => {
    const report = join(folder, 'arrival.json');
    // The command examines the guest only after the stream has ended.
    const connector = connectTo(exec({ command: process.execPath, args: [ARRIVAL, report], lingerMs: 60_000 }));
    const changes = watch(folder)[Symbol.asyncIterator]();
    await crosses(connector, 0, async () => {
      while (!existsSync(report)) await changes.next();
      await changes.return?.();
      return JSON.parse(readFileSync(report, 'utf8')) as Arrival;
    });
  });

  test.each([0, 1, 2, 8])('by messagePort for a worker, with %i page channels', async (pageChannels) => {
    const { port1, port2 } = new MessageChannel();
    const worker = new Worker(ARRIVAL, { workerData: port2, transferList: [port2] });
    const arrived = once(worker, 'message').then(([arrival]) => arrival as Arrival);
    const ended = once(worker, 'exit');
    await crosses(connectTo(messagePort(port1)), pageChannels, () => arrived);
    port1.close();
    await ended;
  });
});

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  type IncomingMigration,
  type IncomingSummary,
  type LinkConnector,
  type LinkListener,
  type MigrateOptions,
  type Migration,
  type MigrationSummary,
  migrate,
  receive,
} from '@godwit/core';
import type { MachineConfig, VirtualMachine } from '@godwit/example-node-vmm';
import { connectTo, listenOn, tcp, tls, unix } from '@godwit/transport';
import { testCertificate } from '@godwit/transport/testing';
import { type FaultThreads, faultThreads, onWorkers } from '@godwit/workers';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { CuttableProxy } from '../guest/cuttable-proxy.js';
import { LiveGuest } from '../guest/live-guest.js';

jest.setTimeout(300_000);

const MIB = 2 ** 20;
/** Every vCPU writes, together faster than a link of `SLOW` carries. */
const GUEST: MachineConfig = {
  memoryBytes: 96 * MIB,
  vcpus: 2,
  workload: { workingSetBytes: 48 * MIB, pagesPerSecond: 20_000, order: 'random' },
};
const SLOW = 32 * MIB;

const folder = mkdtempSync(join(tmpdir(), 'godwit-post-copy-'));
let faults: FaultThreads;
let guest: LiveGuest;

beforeAll(async () => {
  faults = faultThreads();
  guest = await LiveGuest.boot(GUEST);
});

afterAll(async () => {
  await guest.close();
  await faults.close();
  rmSync(folder, { recursive: true });
});

interface Ends {
  readonly connector: LinkConnector;
  readonly listener: LinkListener;
}

const links: Readonly<Record<string, (channels: number) => Promise<Ends>>> = {
  tcp: async (channels) => {
    const listener = await listenOn(tcp({ port: 0 }));
    const connector = connectTo(tcp({ port: listener.listener.port }));
    return { listener: onWorkers(listener, { threads: channels + 1 }), connector: onWorkers(connector) };
  },
  unix: async (channels) => {
    const transport = unix({ path: join(folder, 'socket') });
    return {
      listener: onWorkers(await listenOn(transport), { threads: channels + 1 }),
      connector: onWorkers(connectTo(transport)),
    };
  },
  tls: async () => {
    const host = '127.0.0.1';
    const authority = testCertificate('authority');
    const own = (name: string) => {
      const { cert, key } = testCertificate(name, { signer: authority, hosts: [host] });
      return { host, ca: authority.cert, cert, key };
    };
    const listener = await listenOn(tls({ ...own('destination'), port: 0 }));
    return { listener, connector: connectTo(tls({ ...own('source'), port: listener.listener.port })) };
  },
};

interface Moving {
  readonly migration: Migration;
  readonly incoming: IncomingMigration;
  readonly states: string[];
  /** Machines that the guest has been prepared in. */
  readonly prepared: VirtualMachine[];
}

function moving({ connector, listener }: Ends, options: MigrateOptions): Moving {
  const { machine } = guest;
  const prepared: VirtualMachine[] = [];
  const incoming = receive(listener, {
    prepare: async (description) => {
      const vm = await guest.blank(description);
      prepared.push(vm);
      return vm;
    },
    faults,
    progressIntervalMs: 20,
  });
  const migration = migrate(machine, connector, {
    description: machine.description,
    postcopy: true,
    // Long enough for a busy machine.
    pauseLimitMs: 60_000,
    ...options,
  });
  const states: string[] = [];
  migration.subscribe((event) => event.type === 'state' && states.push(event.state));
  incoming.subscribe((event) => event.type === 'state' && states.push(`destination ${event.state}`));
  return { migration, incoming, states, prepared };
}

interface Moved {
  readonly summary: MigrationSummary;
  readonly arrived: IncomingSummary;
}

/** Resolves when all of the guest has arrived and its own checks hold. */
async function moved({ migration, incoming }: Moving): Promise<Moved> {
  const { machine } = guest;
  const [summary, { vm, summary: arrived }] = await Promise.all([migration.result, incoming.result]);
  expect(machine.state).toBe('paused');
  expect(migration.ownership).toBe('released');
  await guest.moved(vm as VirtualMachine);
  expect(await guest.examine()).toEqual([]);
  expect(arrived.faults?.pagesMissing).toBe(0);
  return { summary, arrived };
}

describe.each(Object.keys(links))('a live guest crosses %s by post-copy', (name) => {
  test.each([0, 1, 4])(
    'with %i page channels, from the start and after one round, there and back',
    async (pageChannels) => {
      const ends = await (links[name] as (typeof links)[string])(pageChannels);
      try {
        for (const how of ['from the start', 'after one round', 'from the start', 'after one round']) {
          const policy = how === 'from the start' ? () => undefined : 'hybrid';
          const move = moving(ends, { pageChannels, policy, downtimeLimitMs: 0 });
          if (how === 'from the start') move.migration.startPostcopy();
          const { summary, arrived } = await moved(move);
          expect(summary.postcopy?.pages).toBeGreaterThan(0);
          expect(arrived.faults?.pagesTotal).toBe(summary.postcopy?.pages);
          const own = move.states.filter((state) => !state.startsWith('destination'));
          expect(own).toEqual(['setup', 'active', 'postcopy-device', 'postcopy-active', 'completed']);
        }
      } finally {
        await ends.listener.close();
      }
    },
  );
});

describe('a link that is lost while pages are missing', () => {
  let proxy: CuttableProxy;
  let ends: Ends;

  beforeEach(async () => {
    const listener = await listenOn(tcp({ port: 0 }));
    proxy = await CuttableProxy.to(listener.listener.port);
    ends = {
      listener: onWorkers(listener, { threads: 2 }),
      connector: onWorkers(connectTo(tcp({ port: proxy.port }))),
    };
  });

  afterEach(async () => {
    await proxy.close();
    await ends.listener.close();
  });

  const way = ['to destination', 'to source'] as const;
  test.each(way)('is made anew, cut at any byte %s; no page that had come is sent again', async (direction) => {
    // Only requests and acknowledgements go to the source: few bytes.
    const bytes = direction === 'to source' ? [1, 10, 30] : [1, 50_000, 700_001];
    const move = moving(ends, { pageChannels: 1, policy: 'hybrid', downtimeLimitMs: 0, postcopyBandwidth: SLOW });
    move.migration.subscribe((event) => {
      if (event.type !== 'state' || event.state !== 'postcopy-active') return;
      const next = bytes.shift();
      if (next !== undefined) proxy.cutAfter(direction, next);
    });
    const { summary, arrived } = await moved(move);
    expect(summary.postcopy?.lostLinks).toBe(proxy.cuts);
    expect(proxy.cuts).toBe(3);
    expect(move.states).toEqual(
      expect.arrayContaining(['postcopy-paused', 'postcopy-recover', 'destination postcopy-paused']),
    );
    const { raw, zero } = arrived.pages;
    // Pages that were in flight when the link was lost are sent again; pages that had arrived are not.
    expect(raw + zero).toBeGreaterThan(0);
    expect(arrived.faults?.pagesTotal).toBe(summary.postcopy?.pages);
  });

  test('before "go" leads back: the guest runs on at the source, and moves later', async () => {
    const move = moving(ends, { pageChannels: 1, policy: 'hybrid', downtimeLimitMs: 0 });
    let backs = 0;
    move.migration.subscribe((event) => {
      if (event.type === 'switchover-start' && backs === 0) proxy.cutAfter('to destination', 100);
      if (event.type === 'went-back') backs++;
    });
    await moved(move);
    expect(backs).toBeGreaterThan(0);
  });

  test('and a destination that never answers: the source keeps the guest as it was at the pause', async () => {
    const { machine } = guest;
    const move = moving(ends, {
      pageChannels: 1,
      policy: 'hybrid',
      downtimeLimitMs: 0,
      postcopyBandwidth: MIB,
      reconnectTimeoutMs: 500,
    });
    move.incoming.result.catch(() => {});
    move.migration.subscribe((event) => {
      if (event.type !== 'state' || event.state !== 'postcopy-active') return;
      proxy.refusing = true;
      proxy.cut();
    });
    await expect(move.migration.result).rejects.toMatchObject({ code: 'GODWIT_OWNERSHIP_UNKNOWN' });
    expect(move.migration.ownership).toBe('unknown');
    await expect(move.migration.result).rejects.toThrow(
      /the guest runs at the destination, which lacked \d+ of its pages/,
    );
    expect(move.incoming.state).toBe('postcopy-paused');
    expect(move.incoming.status().faults?.pagesMissing).toBeGreaterThan(0);
    // For the destination the guest is lost: the guest stands still, and does not read zeros.
    expect(move.incoming.giveUpPages('the source is unreachable')).toBe(true);
    await expect(move.incoming.result).rejects.toMatchObject({ code: 'GODWIT_PAGES_MISSING' });
    expect(move.incoming.ownership).toBe('stranded');
    await Promise.all(move.prepared.map((vm) => vm.close()));
    const { lostMs } = await move.migration.recover({ destinationIsDead: true });
    expect(lostMs).toBeGreaterThan(0);
    expect(move.migration.ownership).toBe('recovered');
    expect(guest.machine).toBe(machine);
    expect(machine.state).toBe('running');
  });
});

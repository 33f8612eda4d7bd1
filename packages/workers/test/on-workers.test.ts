import { randomFillSync } from 'node:crypto';
import { availableParallelism } from 'node:os';
import {
  claimOf,
  delta,
  type FrameStream,
  GodwitError,
  type LinkConnector,
  type MigratableDevice,
  type MigrateOptions,
  migrate,
  receive,
} from '@godwit/core';
import { createGuestMemory } from '@godwit/linux';
import { connectTo, listenOn, memory } from '@godwit/transport';
import { onWorkers } from '@godwit/workers';
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { closeEnds, closeLater, ends, move } from './socket-ends.js';
import { MIB, openSockets, StillGuest } from './still-guest.js';
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

describe.each(['tcp', 'unix'])('over %s', (name) => {
  test.each([1, 2, 8])('%i channels on worker threads at both ends move every byte', async (pageChannels) => {
    const before = openSockets();
    const { connector, listener } = await ends(name);
    const { summary, received } = await move(
      { connector: onWorkers(connector), listener: onWorkers(listener) },
      { pageChannels },
    );
    expect(threads.started.length).toBe(pageChannels * 2);
    expect(threads.alive.size).toBe(0);
    expect(summary.verified).toBe(true);
    expect(summary.pages.raw).toBeGreaterThan(3000);
    expect(received.pages).toMatchObject({
      raw: summary.pages.raw,
      zero: summary.pages.zero + summary.pages.hole,
    });
    expect(received.wireBytes).toBeGreaterThan(summary.pages.raw * 4096);
    await listener.close();
    expect(openSockets()).toBe(before);
  });

  test('either end alone may use threads', async () => {
    const first = await ends(name);
    await move({ ...first, connector: onWorkers(first.connector) }, { pageChannels: 2 });
    expect(threads.started.length).toBe(2);
    const second = name === 'tcp' ? await ends(name) : first;
    await move({ ...second, listener: onWorkers(second.listener) }, { pageChannels: 2 });
    expect(threads.started.length).toBe(4);
    expect(threads.alive.size).toBe(0);
  });
});

test('a guest that is large enough for orders of several frames', async () => {
  const { connector, listener } = await ends('tcp');
  // How large they get is a matter of the machine; how they are cut is tested in core (round-batches, page-path).
  const { summary } = await move(
    { connector: onWorkers(connector), listener: onWorkers(listener) },
    { pageChannels: 2 },
    [399 * MIB, MIB],
  );
  expect(summary.pages.raw).toBeGreaterThan(40_000);
});

test.each(['both ends', 'the source', 'the destination'])('checksums, with threads at %s', async (where) => {
  const { connector, listener } = await ends('tcp');
  await move(
    {
      connector: where === 'the destination' ? connector : onWorkers(connector),
      listener: where === 'the source' ? listener : onWorkers(listener),
    },
    { pageChannels: 2, checksum: true },
  );
  expect(threads.alive.size).toBe(0);
});

test('64 channels', async () => {
  const { connector, listener } = await ends('unix');
  // Sixty-four threads at once are slow to start where there are few cores.
  const slowly = { handshakeTimeoutMs: 100_000 };
  await move({ connector: onWorkers(connector), listener }, { pageChannels: 64, ...slowly });
  expect(threads.started.length).toBe(64);
  expect(threads.alive.size).toBe(0);
});

test('deltas are made and applied on the threads', async () => {
  const { connector, listener } = await ends('tcp');
  const encodings = [delta({ cacheBytes: 64 * 2 ** 20 })];
  const { summary, received } = await move(
    { connector: onWorkers(connector), listener: onWorkers(listener) },
    { pageChannels: 2, encodings, adaptiveEncodings: false },
  );
  expect(summary.pages.delta).toBeGreaterThan(100);
  expect(received.pages.delta).toBe(summary.pages.delta);
  expect(threads.alive.size).toBe(0);
});

test('holes of the source stay holes at the destination', async () => {
  const { connector, listener } = await ends('tcp');
  const { allocated } = await move(
    { connector: onWorkers(connector), listener: onWorkers(listener) },
    { pageChannels: 2 },
  );
  // Of eight parts of the memory two are holes and one is all zero.
  expect(allocated).toBeLessThanOrEqual((32 * 2 ** 20 * 5) / 8 + 2 ** 20);
});

test('a limit on the bandwidth holds on threads too', async () => {
  const { connector, listener } = await ends('tcp');
  const bandwidthLimit = 40 * 2 ** 20;
  const { summary } = await move({ connector: onWorkers(connector), listener }, { pageChannels: 2, bandwidthLimit });
  const [first] = summary.rounds;
  const bytes = first?.wireBytes ?? 0;
  expect(bytes).toBeGreaterThan(10 * 2 ** 20);
  // All but one burst and what both channels may hold when the limit closes.
  expect(first?.totalMs).toBeGreaterThan(((bytes - 4 * 2 ** 20) / bandwidthLimit) * 1000 * 0.9);
});

describe('what cannot live on a worker thread is refused before a page moves', () => {
  test('a transport that is no socket', async () => {
    const transport = memory();
    const listener = await listenOn(transport);
    closeLater(listener);
    const source = new StillGuest(true);
    const incoming = receive(listener, { prepare: () => new StillGuest(false) });
    const migration = migrate(source, onWorkers(connectTo(transport)), { pageChannels: 2 });
    await expect(migration.result).rejects.toMatchObject({
      code: 'GODWIT_UNSUPPORTED',
      message: expect.stringContaining('only plain TCP and UNIX sockets can'),
    });
    incoming.cancel();
    await expect(incoming.result).rejects.toBeDefined();
    expect(source.running).toBe(true);
    expect(threads.alive.size).toBe(0);
    source.memory.close();
  });

  test('the same at the destination', async () => {
    const transport = memory();
    const listener = await listenOn(transport);
    closeLater(listener);
    const source = new StillGuest(true);
    const target = new StillGuest(false);
    const incoming = receive(onWorkers(listener), { prepare: () => target });
    const migration = migrate(source, connectTo(transport), { pageChannels: 2 });
    await expect(incoming.result).rejects.toMatchObject({ code: 'GODWIT_UNSUPPORTED' });
    await expect(migration.result).rejects.toMatchObject({ code: 'GODWIT_UNSUPPORTED', remote: true });
    expect(source.running).toBe(true);
    expect(target.running).toBe(false);
    expect(threads.alive.size).toBe(0);
  });

  test.each(['source', 'destination'])('memory that says nothing of where it is, at the %s', async (side) => {
    const { connector, listener } = await ends('tcp');
    const source = new StillGuest(true);
    const target = new StillGuest(false);
    const silent = (guest: StillGuest) => ({
      memory: { pageSize: guest.memory.pageSize, blocks: guest.memory.blocks },
      trackers: guest.trackers,
      devices: [],
      pause: () => guest.pause(),
      resume: () => guest.resume(),
    });
    const incoming = receive(onWorkers(listener), {
      prepare: () => (side === 'destination' ? silent(target) : target),
    });
    const migration = migrate(side === 'source' ? silent(source) : source, onWorkers(connector), { pageChannels: 1 });
    await expect(migration.result).rejects.toMatchObject({
      code: 'GODWIT_UNSUPPORTED',
      message: expect.stringContaining('attachment()'),
    });
    await expect(incoming.result).rejects.toMatchObject({ code: 'GODWIT_UNSUPPORTED' });
    expect(source.running).toBe(true);
    expect(threads.alive.size).toBe(0);
  });
});

describe('fresh pages', () => {
  /** Page faults of this process while a guest of 128 MiB, whose own memory is there, is received. */
  async function faultsOf(options: MigrateOptions, threaded: boolean): Promise<number> {
    const { connector, listener } = await ends('tcp');
    const sizes = [128 * MIB];
    const source = new StillGuest(true, sizes);
    const target = new StillGuest(false, sizes);
    for (const block of source.memory.blocks) randomFillSync(block.view(0, block.byteLength));
    const incoming = receive(threaded ? onWorkers(listener) : listener, { prepare: () => target });
    const before = process.resourceUsage().minorPageFault;
    const migration = migrate(source, connector, options);
    await Promise.all([migration.result, incoming.result]);
    const faults = process.resourceUsage().minorPageFault - before;
    expect(source.equals(target)).toBe(true);
    source.memory.close();
    target.memory.close();
    return faults;
  }

  test.each([
    ['on the main thread', { pageChannels: 0 }, false],
    ['on the main thread with checksums', { pageChannels: 0, checksum: true }, false],
    ['on worker threads', { pageChannels: 2 }, true],
    ['on worker threads with checksums', { pageChannels: 2, checksum: true }, true],
  ])('are put into the memory file, without a page fault each: %s', async (_, options, threaded) => {
    // 32,768 pages; the rest are faults of new threads and buffers.
    expect(await faultsOf(options, threaded)).toBeLessThan(24_000);
  });
});

describe('how many channels there are by default', () => {
  const silent = (guest: StillGuest) => ({
    memory: { pageSize: guest.memory.pageSize, blocks: guest.memory.blocks },
    trackers: guest.trackers,
    devices: [],
    pause: () => guest.pause(),
    resume: () => guest.resume(),
  });

  test('one or two, on threads, where memory and sockets can live there', async () => {
    const { connector, listener } = await ends('tcp');
    await move({ connector: onWorkers(connector), listener: onWorkers(listener) }, {});
    const channels = availableParallelism() >= 4 ? 2 : 1;
    expect(threads.started.length).toBe(2 * channels);
  });

  test('two for a GiB of memory, where there are two processors', async () => {
    const { connector } = await ends('tcp');
    const channelsFor = onWorkers(connector).pageChannelsFor;
    const blocks = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 2 ** 30 }];
    const memory = createGuestMemory({ blocks, overcommit: true });
    try {
      expect(channelsFor?.(memory)).toBe(availableParallelism() >= 2 ? 2 : 1);
    } finally {
      memory.close();
    }
  });

  test.each(['memory', 'sockets'])('none where the %s cannot', async (what) => {
    const { connector, listener } = await ends('tcp');
    const source = new StillGuest(true);
    const target = new StillGuest(false);
    const incoming = receive(onWorkers(listener), { prepare: () => target });
    const plain: LinkConnector =
      what === 'sockets' ? { connect: (...asked) => connector.connect(...asked) } : connector;
    const migration = migrate(what === 'memory' ? silent(source) : source, onWorkers(plain));
    await Promise.all([migration.result, incoming.result]);
    expect(source.equals(target)).toBe(true);
    expect(threads.started.length).toBe(0);
  });

  test('none without onWorkers, and none where none are asked for', async () => {
    const first = await ends('tcp');
    await move(first, {});
    const second = await ends('tcp');
    await move({ connector: onWorkers(second.connector), listener: second.listener }, { pageChannels: 0 });
    expect(threads.started.length).toBe(0);
  });
});

test('a link that is lost after go is settled over one without page channels', async () => {
  const { connector, listener } = await ends('tcp');
  const source = new StillGuest(true);
  const target = new StillGuest(false);
  const controls: FrameStream[] = [];
  const watched: LinkConnector = {
    async connect(request, signal) {
      const link = await connector.connect(request, signal);
      controls.push(link.control);
      return link;
    },
  };
  const incoming = receive(onWorkers(listener), { prepare: () => target });
  const migration = migrate(source, onWorkers(watched), { pageChannels: 2 });
  migration.subscribe({
    next: (event) => {
      if (event.type !== 'ownership' || event.ownership !== 'handedOver') return;
      controls[0]?.abort(new GodwitError('GODWIT_LINK_LOST', 'the cable was cut'));
    },
    error: () => {},
  });
  await Promise.all([migration.result, incoming.result]);
  expect([source.running, target.running]).toEqual([false, true]);
  expect([migration.ownership, incoming.ownership]).toEqual(['released', 'settled']);
  expect(controls).toHaveLength(2);
  expect(threads.alive.size).toBe(0);
});

describe('device state beside the pages', () => {
  const PIECE = 2 ** 20;

  /** A device of many megabytes, a part of which moves while the guest runs; chunks of every size, also very small ones. */
  function device(live: number, stopped: number) {
    const yielded: Uint8Array[] = [];
    const sizes = [PIECE * 3 + 5, 1, 63, 65, 4096, PIECE, 700_001];
    const chunk = (n: number) => {
      const made = new Uint8Array(sizes[n % sizes.length] as number);
      for (let i = 0; i < made.length; i += 997) made[i] = n * 31 + i;
      yielded.push(made.slice());
      return made;
    };
    let n = 0;
    const source: MigratableDevice = {
      id: 'gpu',
      version: 1,
      async *precopy() {
        while (n < live) yield chunk(n++);
      },
      async *save() {
        const reused = new Uint8Array(PIECE * 4);
        for (let i = 0; i < stopped; i++) {
          const made = chunk(live + i);
          // Each chunk is borrowed only until the next one is asked for.
          reused.set(made);
          yield reused.subarray(0, made.length);
          reused.fill(0xee);
        }
      },
      load: async () => {},
    };
    const loaded: Uint8Array[] = [];
    const destination: MigratableDevice = {
      ...source,
      async load(state) {
        for await (const part of state) loaded.push(part.slice());
      },
    };
    const same = () => Buffer.compare(Buffer.concat(yielded), Buffer.concat(loaded)) === 0;
    return { source, destination, same, bytes: () => yielded.reduce((sum, { length }) => sum + length, 0) };
  }

  test.each([
    ['neither end', 0, false, false],
    ['neither end', 1, false, false],
    ['neither end', 4, false, false],
    ['neither end', 64, false, false],
    ['both ends', 1, true, true],
    ['both ends', 4, true, true],
    ['both ends', 16, true, true],
    ['the source', 4, true, false],
    ['the destination', 4, false, true],
  ])('every byte arrives in its place, %s on workers, with %i page channels', async (_, pageChannels, near, far) => {
    for (const maximumDeviceState of [256 * MIB, 8 * MIB]) {
      const { connector, listener } = await ends('tcp');
      const [source, target] = [new StillGuest(true), new StillGuest(false)];
      source.fill();
      const gpu = device(20, 30);
      Object.assign(source, { devices: [gpu.source] });
      Object.assign(target, { devices: [gpu.destination] });
      const incoming = receive(far ? onWorkers(listener) : listener, { prepare: () => target, maximumDeviceState });
      const migration = migrate(source, near ? onWorkers(connector) : connector, {
        pageChannels,
        force: true,
        verify: true,
      });
      const [summary] = await Promise.all([migration.result, incoming.result]);
      expect([gpu.same(), source.equals(target), summary.deviceBytes]).toEqual([true, true, gpu.bytes()]);
      source.memory.close();
      target.memory.close();
    }
  });

  test.each([false, true])('a device that loads on for ever does not keep a lost link (workers: %s)', async (far) => {
    const { connector, listener } = await ends('tcp');
    const [source, target] = [new StillGuest(true), new StillGuest(false)];
    const gpu = device(0, 40);
    let reached: () => void = () => {};
    const loading = new Promise<void>((resolve) => {
      reached = resolve;
    });
    gpu.destination.load = async (state) => {
      for await (const _ of state) {
        reached();
        if (stopped.signal.aborted) return;
        await new Promise<void>((resolve) => stopped.signal.addEventListener('abort', () => resolve()));
      }
    };
    const stopped = new AbortController();
    Object.assign(source, { devices: [gpu.source] });
    Object.assign(target, { devices: [gpu.destination] });
    const incoming = receive(far ? onWorkers(listener) : listener, {
      prepare: () => target,
      maximumDeviceState: 4 * MIB,
    });
    const migration = migrate(source, onWorkers(connector), { pageChannels: 2, force: true });
    const outcomes = Promise.allSettled([migration.result, incoming.result]);
    await loading;
    migration.cancel();
    stopped.abort();
    const [sent, received] = await outcomes;
    expect([sent?.status, received?.status, source.running]).toEqual(['rejected', 'rejected', true]);
    await Promise.all([claimOf(source).free, claimOf(target).free]);
    source.memory.close();
    target.memory.close();
  });
});

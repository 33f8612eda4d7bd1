import { type LinkConnector, type MigrateOptions, type MigrationSummary, roundCap } from '@godwit/core';
import { type MemoryLinkOptions, memoryLink, ToyVm, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { expectMoved, PAGE, random, start, type Toy } from './toy-migration.js';

const PAGES = 1024;
const RAM = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: PAGES * PAGE }];
const MIB = 2 ** 20;

function guest(): ToyVm {
  const vm = new ToyVm(RAM);
  for (let page = 0; page < PAGES; page++) vm.write(0, page * PAGE, new Uint8Array(PAGE).fill((page % 255) + 1));
  return vm;
}

interface Parts {
  /** MiB that the device yields while the guest runs, in its first pre-copy, and with the guest paused. */
  readonly running: number;
  readonly paused: number;
  /** Bytes of a chunk. */
  readonly chunk?: number;
}

function device({ running, paused, chunk = MIB }: Parts, log: (bytes: number) => void = () => {}) {
  let first = true;
  return {
    id: 'gpu',
    version: 1,
    async *precopy() {
      if (!first) return;
      first = false;
      for (let at = 0; at < running * MIB; at += chunk) {
        log(chunk);
        yield new Uint8Array(chunk).fill(7);
      }
    },
    async *save() {
      for (let i = 0; i < paused; i++) yield new Uint8Array(MIB).fill(8);
    },
    async load(state: AsyncIterable<Uint8Array>) {
      for await (const _ of state);
    },
  };
}

interface World {
  readonly parts?: Parts;
  readonly migrate?: MigrateOptions;
  readonly link?: MemoryLinkOptions;
}

/** A migration, with the bytes that its streams have written. */
function begin({ parts, migrate, link }: World): Toy & { readonly written: () => number } {
  const clock = new VirtualClock();
  const source = guest();
  const destination = new ToyVm(RAM, { running: false });
  if (parts !== undefined) {
    source.devices = [device(parts)];
    destination.devices = [device(parts)];
  }
  const wire = memoryLink({ clock, ...link });
  const streams: { readonly bytesWritten: number }[] = [];
  const connector: LinkConnector = {
    async connect(request, signal) {
      const made = await wire.connector.connect(request, signal);
      streams.push(made.control, ...made.pageChannels);
      return made;
    },
  };
  const toy = start({ clock, source, destination, connector, listener: wire.listener, migrate: { ...migrate } });
  const written = () => streams.reduce((sum, { bytesWritten }) => sum + bytesWritten, 0);
  return { ...toy, link: wire, written };
}

/** Writes some pages every 10 ms while the guest runs. */
async function dirty({ clock, source, migration }: Toy, pages: number): Promise<void> {
  const next = random(3);
  while (!['failed', 'cancelled', 'completed'].includes(migration.state)) {
    await clock.sleep(10);
    for (let i = 0; i < pages && source.running; i++) {
      source.write(0, (next() % PAGES) * PAGE, Uint8Array.of(next(), 1));
    }
  }
}

function expectAddsUp(summary: MigrationSummary, written: number): void {
  const inRounds = summary.rounds.reduce((sum, { wireBytes }) => sum + wireBytes, 0);
  expect(summary.wireBytes).toBe(written);
  expect(inRounds + summary.outsideRoundsBytes).toBe(summary.wireBytes);
  // Handshakes, keepalive, the frames of the switchover: of 16 bytes each, as this link counts.
  expect(summary.outsideRoundsBytes).toBeGreaterThan(0);
  expect(summary.outsideRoundsBytes).toBeLessThan(2000);
  expect(summary.deviceBytes).toBeLessThan(summary.wireBytes);
  for (const { wireBytes, deviceBytes, pages } of summary.rounds) {
    expect(wireBytes).toBeGreaterThanOrEqual(deviceBytes + pages.raw * PAGE);
  }
}

describe('every byte of the streams counts once', () => {
  test.each([0, 1, 4].flatMap((pageChannels) => [0, 5e6].map((bandwidthLimit) => ({ pageChannels, bandwidthLimit }))))(
    'with a device: %o',
    async ({ pageChannels, bandwidthLimit }) => {
      const toy = begin({
        parts: { running: 6, paused: 3 },
        migrate: { pageChannels, bandwidthLimit },
        link: { bytesPerSecond: 5e7, latencyMs: 1 },
      });
      void dirty(toy, 5);
      const ends = await toy.settled();
      expectMoved(toy, ends);
      const summary = await toy.migration.result;
      expectAddsUp(summary, toy.written());
      expect(summary.deviceBytes).toBe(9 * MIB);
      expect(summary.rounds.reduce((sum, { deviceBytes }) => sum + deviceBytes, 0)).toBe(9 * MIB);
      const paused = summary.rounds.filter(({ phase }) => phase === 'stop-and-copy');
      expect(paused.reduce((sum, { deviceBytes }) => sum + deviceBytes, 0)).toBe(3 * MIB);
    },
  );

  test('over connections that are lost: progress never goes back, and ends with what the summary says', async () => {
    for (const pageChannels of [0, 1, 3]) {
      for (const delivered of [true, false]) {
        const toy = begin({
          parts: { running: 4, paused: 1, chunk: 100_000 },
          migrate: { pageChannels, policy: roundCap(4, 'switchover'), progressIntervalMs: 20 },
          link: { bytesPerSecond: 8e6, latencyMs: 1 },
        });
        void dirty(toy, 3);
        for (const ms of [200, 350, 500, 150]) {
          await toy.clock.sleep(ms);
          if (toy.migration.ownership === 'running') toy.link.cut({ delivered });
        }
        const ends = await toy.settled();
        expectMoved(toy, ends);
        const summary = await toy.migration.result;
        expect(summary.wireBytes).toBe(toy.written());
        const inRounds = summary.rounds.reduce((sum, { wireBytes }) => sum + wireBytes, 0);
        expect(inRounds + summary.outsideRoundsBytes).toBe(summary.wireBytes);
        expect(summary.outsideRoundsBytes).toBeLessThan(4000);
        expect(toy.events.filter(({ type }) => type === 'reconnected').length).toBeGreaterThan(1);
        let last = 0;
        for (const event of toy.events) {
          if (event.type !== 'progress') continue;
          expect(event.progress.wireBytes).toBeGreaterThanOrEqual(last);
          last = event.progress.wireBytes;
        }
        expect(last).toBeLessThanOrEqual(summary.wireBytes);
        expect(last).toBeGreaterThan(summary.wireBytes * 0.75);
      }
    }
  });
});

test('a stop-and-copy that is given up has its round too, with the device state that it has sent', async () => {
  const toy = begin({
    parts: { running: 0, paused: 2 },
    migrate: { pauseLimitMs: 200 },
    link: { bytesPerSecond: 1e8 },
  });
  let saves = 0;
  const [gpu] = toy.source.devices;
  const save = gpu?.save.bind(gpu);
  Object.assign(gpu ?? {}, {
    async *save(signal: AbortSignal) {
      yield* save?.(signal) ?? [];
      if (++saves === 1)
        await new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
    },
  });
  expectMoved(toy, await toy.settled());
  const summary = await toy.migration.result;
  expect(toy.events.filter(({ type }) => type === 'went-back')).toHaveLength(1);
  const paused = summary.rounds.filter(({ phase }) => phase === 'stop-and-copy');
  expect(paused.map(({ deviceBytes }) => deviceBytes)).toEqual([2 * MIB, 2 * MIB]);
  expectAddsUp(summary, toy.written());
});

describe('device state and the bandwidth limit', () => {
  /** The most bytes that were written in any second, the guest running. */
  async function fastest(toy: ReturnType<typeof begin>): Promise<number> {
    const counts: { readonly at: number; readonly bytes: number }[] = [];
    const watch = (async () => {
      while (toy.source.running && !['failed', 'cancelled', 'completed'].includes(toy.migration.state)) {
        counts.push({ at: toy.clock.now(), bytes: toy.written() });
        await toy.clock.sleep(10);
      }
    })();
    expectMoved(toy, await toy.settled());
    await watch;
    let most = 0;
    for (const [i, { at, bytes }] of counts.entries()) {
      const end = counts.slice(i).find((one) => one.at >= at + 1000);
      if (end !== undefined) most = Math.max(most, ((end.bytes - bytes) / (end.at - at)) * 1000);
    }
    return most;
  }

  test.each([0, 2])('holds back what moves while the guest runs, with %i page channels', async (pageChannels) => {
    const toy = begin({
      parts: { running: 40, paused: 0 },
      migrate: { bandwidthLimit: 10e6, pageChannels },
      link: { bytesPerSecond: 1e9 },
    });
    const most = await fastest(toy);
    // A burst of 50 ms, and a piece.
    expect(most).toBeLessThan(10e6 * 1.1);
    const { totalMs, wireBytes, rounds } = await toy.migration.result;
    expect((wireBytes / totalMs) * 1000).toBeGreaterThan(9e6);
    expect((wireBytes / totalMs) * 1000).toBeLessThan(10.2e6);
    for (const { scanMs, sendMs, limitMs, totalMs: ms } of rounds)
      expect(scanMs + sendMs + limitMs).toBeLessThan(ms + 1);
    expect(rounds[0]?.limitMs).toBeGreaterThan(4000);
  });

  test('not what is saved with the guest paused', async () => {
    const toy = begin({
      parts: { running: 0, paused: 20 },
      migrate: { bandwidthLimit: 1e6, downtimeLimitMs: 1000 },
      link: { bytesPerSecond: 1e9 },
    });
    expectMoved(toy, await toy.settled());
    const { downtime, deviceBytes } = await toy.migration.result;
    expect(downtime.deviceMs.actualMs).toBeLessThan(50);
    expect(deviceBytes).toBe(20 * MIB);
  });

  test('a switchover at any price does not wait for the state that is held back: it comes with the pause', async () => {
    const toy = begin({
      parts: { running: 40, paused: 0 },
      migrate: { bandwidthLimit: 4e6 },
      link: { bytesPerSecond: 1e9 },
    });
    await toy.clock.sleep(3000);
    expect(toy.source.running).toBe(true);
    const at = toy.clock.now();
    toy.migration.switchOver({ force: true });
    expectMoved(toy, await toy.settled());
    expect(toy.clock.now() - at).toBeLessThan(600);
  });

  test('a lost link is not waited for: kept pieces go out again within the limit, beside the rounds', async () => {
    const toy = begin({
      parts: { running: 16, paused: 0 },
      migrate: { bandwidthLimit: 2e6 },
      link: { bytesPerSecond: 1e9, latencyMs: 1 },
    });
    await toy.clock.sleep(6000);
    toy.link.cut();
    const most = await fastest(toy);
    expect(most).toBeLessThan(2e6 * 1.3);
    const [again] = toy.events.flatMap((event) => (event.type === 'reconnected' ? [event.downMs] : []));
    expect(again).toBeLessThan(500);
  });
});

describe('the rate', () => {
  test.each([
    { bandwidthLimit: 10e6, bytesPerSecond: 1e9, pageChannels: 0, progressIntervalMs: 100 },
    { bandwidthLimit: 10e6, bytesPerSecond: 1e9, pageChannels: 3, progressIntervalMs: 70 },
    { bandwidthLimit: 1e6, bytesPerSecond: 1e8, pageChannels: 0, progressIntervalMs: 100 },
    { bandwidthLimit: 1e6, bytesPerSecond: 1e8, pageChannels: 2, progressIntervalMs: 1000 },
    { bandwidthLimit: 0, bytesPerSecond: 4e6, pageChannels: 0, progressIntervalMs: 100 },
  ])('is steady, and that of the limit or the link: $bandwidthLimit, $bytesPerSecond', async (given) => {
    const { bandwidthLimit, bytesPerSecond, pageChannels, progressIntervalMs } = given;
    const toy = begin({
      parts: { running: 30, paused: 0 },
      migrate: { bandwidthLimit, pageChannels, progressIntervalMs },
      link: { bytesPerSecond },
    });
    expectMoved(toy, await toy.settled());
    const { totalMs } = await toy.migration.result;
    const expected = bandwidthLimit || bytesPerSecond;
    const rates = toy.events.flatMap((event) =>
      event.type === 'progress' && event.progress.elapsedMs > 1500 && event.progress.elapsedMs < totalMs - 1000
        ? [event.progress.wireBytesPerSecond / expected]
        : [],
    );
    expect(rates.length).toBeGreaterThan(bandwidthLimit === 10e6 ? 5 : 10);
    expect(Math.min(...rates)).toBeGreaterThan(bandwidthLimit > 0 ? 0.95 : 0.7);
    expect(Math.max(...rates)).toBeLessThan(1.05);
  });
});

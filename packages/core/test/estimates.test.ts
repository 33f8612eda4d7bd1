import { type MigrationEvent, type RoundRecord, receive, roundCap } from '@godwit/core';
import { FaultyDevice, memoryLink, ToyVm, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { expectMoved, PAGE, start, type Toy } from './toy-migration.js';

const PAGES = 8192;
const RAM = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: PAGES * PAGE }];

/** A guest whose first half is memory that was written and is zero, and whose second half has contents. */
function halfZero(): ToyVm {
  const vm = new ToyVm(RAM);
  vm.write(0, 0, new Uint8Array((PAGES / 2) * PAGE));
  vm.write(0, (PAGES / 2) * PAGE, new Uint8Array((PAGES / 2) * PAGE).fill(7));
  return vm;
}

/** Writes to the second half, `pagesPerSecond` of them, until the migration is over. */
async function dirty({ clock, source, migration }: Toy, pagesPerSecond: number): Promise<void> {
  for (let i = 0; !['failed', 'cancelled', 'completed'].includes(migration.state); ) {
    await clock.sleep(10);
    for (let k = 0; k < pagesPerSecond / 100; k++, i++) {
      if (source.running) source.write(0, (PAGES / 2 + ((i * 7919) % (PAGES / 2))) * PAGE, Uint8Array.of(i, 3));
    }
  }
}

function rounds(events: readonly MigrationEvent[]): RoundRecord[] {
  return events.flatMap((event) => (event.type === 'round' ? [event.round] : []));
}

describe('the time that is left', () => {
  test('is unknown in round 1, and then right within a half', async () => {
    const toy = start({
      source: halfZero(),
      destination: new ToyVm(RAM, { running: false }),
      link: { bytesPerSecond: 4e6 },
      migrate: { progressIntervalMs: 250 },
    });
    void dirty(toy, 500);
    const ends = await toy.settled();
    expectMoved(toy, ends);
    const { totalMs } = await toy.migration.result;
    const told = toy.events.flatMap((event) => (event.type === 'progress' ? [event.progress] : []));
    const first = told.filter(({ round }) => round === 1);
    expect(first.length).toBeGreaterThan(10);
    expect(first.every(({ remainingMs }) => remainingMs === undefined)).toBe(true);
    const later = told.filter(({ round, elapsedMs }) => round > 1 && totalMs - elapsedMs > 1000);
    expect(later.length).toBeGreaterThan(10);
    for (const { elapsedMs, remainingMs } of later) {
      expect((remainingMs as number) / (totalMs - elapsedMs)).toBeGreaterThan(0.5);
      expect((remainingMs as number) / (totalMs - elapsedMs)).toBeLessThan(1.5);
    }
  });

  test('is unknown while rounds do not shrink', async () => {
    const toy = start({
      source: halfZero(),
      destination: new ToyVm(RAM, { running: false }),
      link: { bytesPerSecond: 1e6 },
      migrate: { progressIntervalMs: 250, policy: roundCap(4, 'abort') },
    });
    void dirty(toy, 2000);
    expect((await toy.settled()).code).toBe('GODWIT_NOT_CONVERGING');
    const told = toy.events.flatMap((event) => (event.type === 'progress' ? [event.progress.remainingMs] : []));
    expect(new Set(told)).toEqual(new Set([undefined]));
  });

  test('no more pages of a round are sent than there are, over a link that is lost', async () => {
    const toy = start({
      source: halfZero(),
      destination: new ToyVm(RAM, { running: false }),
      link: { bytesPerSecond: 4e6 },
      migrate: { progressIntervalMs: 50 },
    });
    for (const ms of [1500, 1000]) {
      await toy.clock.sleep(ms);
      toy.link.cut();
    }
    expectMoved(toy, await toy.settled());
    const told = toy.events.flatMap((event) => (event.type === 'progress' ? [event.progress] : []));
    expect(told.filter(({ roundPagesSent, roundPages }) => roundPagesSent > roundPages)).toEqual([]);
    expect(toy.events.filter(({ type }) => type === 'reconnected')).toHaveLength(2);
  });
});

describe('predictions', () => {
  test('a destination that was restarted changes nothing of what pages are like', async () => {
    const clock = new VirtualClock();
    const links = [memoryLink({ clock, bytesPerSecond: 4e6 }), memoryLink({ clock, bytesPerSecond: 4e6 })];
    let there = 0;
    const toy = start({
      clock,
      source: halfZero(),
      destination: new ToyVm(RAM, { running: false }),
      listener: (links[1] as (typeof links)[0]).listener,
      connector: {
        connect: (request, signal) => (links[there] as (typeof links)[0]).connector.connect(request, signal),
      },
      migrate: { downtimeLimitMs: 1, policy: roundCap(6, 'abort') },
    });
    const first = receive((links[0] as (typeof links)[0]).listener, {
      prepare: () => new ToyVm(RAM, { running: false }),
      clock,
      reconnectTimeoutMs: 100,
    });
    toy.migration.subscribe((event) => {
      if (event.type !== 'round-start' || event.round !== 3 || there === 1) return;
      there = 1;
      links[0]?.cut();
    });
    void dirty(toy, 800);
    await Promise.allSettled([toy.migration.result, first.result]);
    expect(toy.events).toContainEqual(expect.objectContaining({ type: 'reconnected', restarted: true }));
    const perPage = rounds(toy.events).map(({ prediction, newlyDirtyPages }) => prediction.ramMs / newlyDirtyPages);
    expect(perPage.length).toBeGreaterThanOrEqual(5);
    // 4,096 bytes and their share of a frame, over 4 MB/s.
    for (const ms of perPage) expect(ms).toBeCloseTo(1.024, 1);
  });

  test('an earlier migration does not hide what a device says of its size now', async () => {
    const source = halfZero();
    source.devices = [Object.assign(new FaultyDevice('gpu', new Uint8Array(4e6)), { stateBytes: () => 4e6 })];
    const toy = start({
      source,
      destination: new ToyVm(RAM, { running: false, devices: [new FaultyDevice('gpu')] }),
      link: { bytesPerSecond: 4e6 },
      migrate: { prior: { deviceMs: 2 }, policy: roundCap(2, 'abort') },
    });
    await toy.settled();
    for (const { prediction } of rounds(toy.events)) expect(prediction.deviceMs).toBeGreaterThan(900);
  });

  test('count the three harvests that come with the guest paused', async () => {
    const source = halfZero();
    const { software } = source;
    const clock = new VirtualClock();
    source.trackers = [
      {
        name: 'slow',
        start: () => software.start(),
        stop: () => software.stop(),
        harvest: async (into) => {
          await clock.sleep(40);
          await software.harvest(into);
        },
      },
    ];
    const toy = start({ clock, source, destination: new ToyVm(RAM, { running: false }) });
    expectMoved(toy, await toy.settled());
    const { downtime } = await toy.migration.result;
    expect(downtime.harvestMs.actualMs).toBeCloseTo(120, 0);
    expect(downtime.harvestMs.predictedMs).toBeCloseTo(120, 0);
  });
});

describe('under a bandwidth limit', () => {
  test.each([0, 3])(
    'the rate of the link itself is known after round 1, with %s page channels',
    async (pageChannels) => {
      const toy = start({
        source: halfZero(),
        destination: new ToyVm(RAM, { running: false }),
        link: { bytesPerSecond: 200e6, latencyMs: 0.5 },
        migrate: { bandwidthLimit: 10e6, pageChannels, policy: roundCap(4, 'switchover') },
      });
      void dirty(toy, 2000);
      expectMoved(toy, await toy.settled());
      const told = rounds(toy.events);
      for (const { linkBytesPerSecond } of told) {
        expect(linkBytesPerSecond).toBeGreaterThan(150e6);
        expect(linkBytesPerSecond).toBeLessThan(250e6);
      }
      const { downtime } = await toy.migration.result;
      expect(downtime.ramMs.rangeMs[0]).toBeLessThanOrEqual(downtime.ramMs.actualMs);
      expect(downtime.ramMs.rangeMs[1]).toBeGreaterThanOrEqual(downtime.ramMs.actualMs);
      expect(downtime.ramMs.predictedMs / downtime.ramMs.actualMs).toBeGreaterThan(0.5);
      expect(downtime.ramMs.predictedMs / downtime.ramMs.actualMs).toBeLessThan(1.5);
    },
  );

  test('it is kept, with two bursts in any second', async () => {
    const toy = start({
      source: halfZero(),
      destination: new ToyVm(RAM, { running: false }),
      link: { bytesPerSecond: 200e6 },
      migrate: { bandwidthLimit: 4e6, progressIntervalMs: 1000, policy: roundCap(5, 'abort') },
    });
    void dirty(toy, 500);
    await toy.settled();
    const told = toy.events.flatMap((event) => (event.type === 'progress' ? [event.progress.wireBytesPerSecond] : []));
    expect(told.length).toBeGreaterThan(4);
    // A burst is 50 ms of the limit; a batch 1 MiB at most.
    expect(Math.max(...told)).toBeLessThan(4e6 * 1.1 + 2 ** 20);
  });
});

test('thousands of devices: each costs its time, and the downtime lies inside its interval', async () => {
  const clock = new VirtualClock();
  const state = new Uint8Array(100);
  const devices = () => Array.from({ length: 2000 }, (_, index) => new FaultyDevice(`dev-${index}`, state));
  const source = halfZero();
  source.devices = devices();
  const toy = start({
    clock,
    source,
    destination: new ToyVm(RAM, { running: false, devices: devices() }),
    link: { bytesPerSecond: 2e6 },
    migrate: { downtimeLimitMs: 2000, policy: roundCap(3, 'switchover') },
  });
  void dirty(toy, 50);
  expectMoved(toy, await toy.settled());
  const { downtime, downtimeMs, predictedDowntimeRangeMs: range } = await toy.migration.result;
  expect(downtime.deviceMs.actualMs).toBeGreaterThan(100);
  expect(downtimeMs).toBeGreaterThanOrEqual(range[0]);
  expect(downtimeMs).toBeLessThanOrEqual(range[1]);
});

describe('a limit that no round can reach', () => {
  test('is told at once, once, with its terms; again when it is lowered after it could be reached', async () => {
    const toy = start({
      source: halfZero(),
      destination: new ToyVm(RAM, { running: false }),
      link: { bytesPerSecond: 4e6 },
      migrate: { downtimeLimitMs: 5, prior: { loadMs: 20 }, policy: roundCap(12, 'switchover') },
    });
    void dirty(toy, 100);
    const adjusted: number[] = [];
    toy.migration.subscribe((event) => {
      if (event.type !== 'round' || event.round.phase !== 'pre-copy') return;
      // Nothing fits into 40 ms either while pages are left: it can be reached all the same.
      if (event.round.round === 3) toy.migration.adjust({ downtimeLimitMs: 30 });
      if (event.round.round === 6) toy.migration.adjust({ downtimeLimitMs: 5 });
      adjusted.push(event.round.round);
    });
    expectMoved(toy, await toy.settled());
    const told = toy.events.flatMap((event, at) => (event.type === 'limit-unreachable' ? [{ at, event }] : []));
    expect(told.map(({ event }) => [event.code, event.limitMs])).toEqual([
      ['GODWIT_LIMIT_UNREACHABLE', 5],
      ['GODWIT_LIMIT_UNREACHABLE', 5],
    ]);
    const [one] = told;
    expect(one?.event.fixedMs).toBeGreaterThan(20);
    expect(one?.event.terms.loadMs).toBe(20);
    const first = toy.events.findIndex(({ type }) => type === 'round');
    expect(one?.at).toBeLessThan(first);
  });

  test('is not told of one that can be', async () => {
    const toy = start({ source: halfZero(), destination: new ToyVm(RAM, { running: false }) });
    expectMoved(toy, await toy.settled());
    expect(toy.events.filter(({ type }) => type === 'limit-unreachable')).toEqual([]);
  });
});

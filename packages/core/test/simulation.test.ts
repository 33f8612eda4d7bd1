import {
  firstOpinion,
  type MigrateOptions,
  type MigrationEvent,
  type MigrationSummary,
  roundCap,
  timeBudget,
  withinDowntimeLimit,
} from '@godwit/core';
import { FaultyDevice, type MemoryLinkOptions, ToyVm } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { expectMoved, expectStayed, random, start, type Toy } from './toy-migration.js';

/** Small pages: what is simulated counts pages, not bytes. */
const PAGE = 256;
const PAGES = 8192;
/** 10,000 pages a second, framing aside. */
const LINK = 10_000 * PAGE;

interface World {
  /** Pages that the guest writes in a second, at random within its working set. */
  readonly dirtyPagesPerSecond: number;
  readonly workingSet?: number;
  readonly seed?: number;
  readonly pages?: number;
  readonly filledPages?: number;
  readonly link?: MemoryLinkOptions;
  readonly migrate?: MigrateOptions;
}

/** A guest that writes at a steady rate until it is paused, and while it runs again. */
function simulate(world: World): Toy {
  const { dirtyPagesPerSecond, pages = PAGES, workingSet = pages, seed = 1, filledPages = pages } = world;
  const ram = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: pages * PAGE }];
  const source = new ToyVm(ram, { pageSize: PAGE });
  source.write(0, 0, new Uint8Array(filledPages * PAGE).fill(1));
  source.devices = [new FaultyDevice('vcpu', new Uint8Array(1000).fill(9))];
  const destination = new ToyVm(ram, { pageSize: PAGE, running: false, devices: [new FaultyDevice('vcpu')] });
  const toy = start({
    source,
    destination,
    link: { bytesPerSecond: LINK, latencyMs: 0.2, ...world.link },
    migrate: { verify: true, ...world.migrate },
  });
  const next = random(seed);
  void (async () => {
    let owed = 0;
    let last = 0;
    while (
      toy.migration.state !== 'completed' &&
      toy.migration.state !== 'failed' &&
      toy.migration.state !== 'cancelled'
    ) {
      await toy.clock.sleep(1);
      const now = toy.clock.now();
      owed += ((now - last) / 1000) * dirtyPagesPerSecond;
      last = now;
      if (!source.running) owed = 0;
      for (; owed >= 1; owed--) source.write(0, (next() % workingSet) * PAGE + (next() % PAGE), Uint8Array.of(next()));
    }
  })();
  return toy;
}

async function moved(toy: Toy): Promise<MigrationSummary> {
  const ends = await toy.settled();
  expectMoved(toy, ends);
  if (ends.sent.status !== 'fulfilled') throw new Error('unreachable');
  return ends.sent.value;
}

const plain = (events: readonly MigrationEvent[]) =>
  JSON.stringify(events.map((event) => ({ ...event, summary: undefined })));

test('the same seed gives the same migration, event by event and time by time', async () => {
  const runs = [];
  for (const seed of [7, 7, 9]) {
    const toy = simulate({ dirtyPagesPerSecond: 4000, seed });
    const { migrationId: _, ...summary } = await moved(toy);
    runs.push({ events: plain(toy.events), summary: JSON.stringify(summary), now: toy.clock.now() });
  }
  expect(runs[1]).toEqual(runs[0]);
  expect(runs[2]?.events).not.toEqual(runs[0]?.events);
});

describe('a guest that writes more slowly than the link carries', () => {
  test.each([
    { dirtyPagesPerSecond: 0, rounds: 1 },
    { dirtyPagesPerSecond: 500, rounds: 1 },
    { dirtyPagesPerSecond: 4000, rounds: 2 },
    { dirtyPagesPerSecond: 8000, rounds: 4 },
  ])('$dirtyPagesPerSecond pages/s converges', async ({ dirtyPagesPerSecond, rounds }) => {
    const summary = await moved(simulate({ dirtyPagesPerSecond, migrate: { downtimeLimitMs: 200 } }));
    const precopy = summary.rounds.filter(({ phase }) => phase === 'pre-copy');
    expect(precopy.length).toBeGreaterThanOrEqual(rounds);
    expect(precopy.length).toBeLessThanOrEqual(rounds + 3);
    expect(summary.downtimeMs).toBeLessThanOrEqual(200);
    for (const [index, round] of precopy.entries()) {
      expect(round.linkBytesPerSecond / LINK).toBeGreaterThan(0.95);
      expect(round.linkBytesPerSecond / LINK).toBeLessThan(1.05);
      // What was written twice counts once.
      expect(round.dirtyPagesPerSecond).toBeLessThanOrEqual(dirtyPagesPerSecond * 1.05);
      expect(round.dirtyPages + round.deferredPages).toBe(index === 0 ? PAGES : precopy[index - 1]?.newlyDirtyPages);
    }
  });
});

describe('the predicted downtime is near what it then was', () => {
  test.each<readonly [string, World]>([
    ['one round', { dirtyPagesPerSecond: 1500 }],
    ['several rounds', { dirtyPagesPerSecond: 7000, migrate: { downtimeLimitMs: 150 } }],
    ['a small working set', { dirtyPagesPerSecond: 50_000, workingSet: 1500 }],
    ['RAM that is mostly zero', { dirtyPagesPerSecond: 2500, filledPages: 100, migrate: { downtimeLimitMs: 150 } }],
    ['a latency of 20 ms', { dirtyPagesPerSecond: 2000, link: { latencyMs: 20 } }],
    ['a bandwidth limit of a tenth of the link', { dirtyPagesPerSecond: 400, migrate: { bandwidthLimit: LINK / 10 } }],
    [
      'a bandwidth limit, and page channels',
      { dirtyPagesPerSecond: 400, migrate: { bandwidthLimit: LINK / 10, pageChannels: 4 } },
    ],
    ['page channels', { dirtyPagesPerSecond: 5000, migrate: { pageChannels: 3 } }],
  ])('%s', async (_, world) => {
    const prior = { pauseMs: 0, harvestMs: 0, loadMs: 0, resumeMs: 0 };
    const toy = simulate({ ...world, migrate: { ...world.migrate, prior } });
    const summary = await moved(toy);
    const ratio = summary.downtimeMs / summary.predictedDowntimeMs;
    expect({ ratio: ratio > 0.6 && ratio < 1.4 ? 'near' : ratio }).toEqual({ ratio: 'near' });
    const [low, high] = summary.predictedDowntimeRangeMs;
    expect(summary.downtimeMs).toBeGreaterThanOrEqual(low);
    expect(summary.downtimeMs).toBeLessThanOrEqual(high);
    expect(summary.downtimeMs).toBeLessThanOrEqual((world.migrate?.downtimeLimitMs ?? 300) * 1.15);
  });
});

test('the terms add up to the downtime that the guest saw, and to nothing more', async () => {
  const toy = simulate({ dirtyPagesPerSecond: 3000, link: { latencyMs: 5 } });
  let downAt = 0;
  let upAt = 0;
  toy.source.onPause = () => {
    downAt = toy.clock.now();
  };
  toy.destination.onResume = () => {
    upAt = toy.clock.now();
  };
  const summary = await moved(toy);
  expect(summary.downtimeMs).toBeCloseTo(upAt - downAt - summary.verifyMs, 1);
  const terms = Object.values(summary.downtime);
  expect(terms.reduce((sum, { actualMs }) => sum + actualMs, 0)).toBeCloseTo(summary.downtimeMs, 6);
  expect(terms.reduce((sum, { predictedMs }) => sum + predictedMs, 0)).toBeCloseTo(summary.predictedDowntimeMs, 6);
  // "switchover" and "go" go there, "ready" comes here; that "running" comes here too, the guest does not wait for.
  expect(summary.downtime.roundTripMs.actualMs).toBeGreaterThanOrEqual(15);
  expect(summary.downtime.roundTripMs.actualMs).toBeLessThan(16);
  expect(summary.verifyMs).toBeGreaterThan(0);
  expect(summary.totalMs).toBeGreaterThan(summary.downtimeMs + summary.verifyMs);
});

describe('a guest that writes faster than the link carries', () => {
  const busy: World = { dirtyPagesPerSecond: 20_000, pages: 2048, migrate: { downtimeLimitMs: 100 } };

  test('goes on until it is cancelled', async () => {
    const toy = simulate(busy);
    void toy.clock.sleep(4000).then(() => toy.migration.cancel());
    const ends = await toy.settled();
    expectStayed(toy, ends, 'GODWIT_CANCELLED');
    expect(toy.source.pauses).toBe(0);
    const rounds = toy.events.flatMap((event) => (event.type === 'round' ? [event.round] : []));
    expect(rounds.length).toBeGreaterThan(15);
    for (const { decision } of rounds) expect(decision.action).toBe('continue');
    const remaining = toy.events.flatMap((event) =>
      event.type === 'progress' && event.progress.round > 2 ? [event.progress.remainingMs] : [],
    );
    expect(remaining.filter((ms) => ms !== undefined).length).toBeLessThan(remaining.length / 4);
  });

  test.each(['balanced', undefined] as const)(
    'under the policy %s it gives up after a minute, and says what would have helped',
    async (policy) => {
      const toy = simulate({ ...busy, migrate: { downtimeLimitMs: 100, ...(policy && { policy }) } });
      const ends = await toy.settled();
      expectStayed(toy, ends, 'GODWIT_NOT_CONVERGING');
      expect(toy.clock.now()).toBeGreaterThan(60_000);
      expect(toy.clock.now()).toBeLessThan(60_300);
      const { message } = (ends.sent as PromiseRejectedResult).reason as Error;
      expect(message).toMatch(
        /the time budget of 60000 ms is used up \(the least of the default; timeBudgetMs sets another\)/,
      );
      expect(message).toMatch(
        /; the guest dirties \d+ pages\/s \(\d\.\d MiB\/s\), the link carries \d+ pages\/s \(2\.\d MiB\/s\); /,
      );
      const [, sufficed] =
        /a downtimeLimitMs of (\d+) would have sufficed \(100 was given\) at the best moment/.exec(message) ?? [];
      const predicted = toy.events.flatMap((event) =>
        event.type === 'round' ? [event.round.predictedDowntimeMs] : [],
      );
      expect(Number(sufficed)).toBe(Math.ceil(Math.min(...predicted)));
      expect(
        (await simulate({ ...busy, migrate: { downtimeLimitMs: Number(sufficed) + 20 } }).settled()).code,
      ).toBeUndefined();
    },
  );

  test.each([
    ['gentle', 'GODWIT_NOT_CONVERGING'],
    ['balanced', 'GODWIT_NOT_CONVERGING'],
    ['qemu', 'GODWIT_NOT_CONVERGING'],
    ['vep248', 'GODWIT_NOT_CONVERGING'],
    ['vep291', 'GODWIT_NOT_CONVERGING'],
    ['urgent', undefined],
  ] as const)('with a time budget under %s it has ended by then', async (policy, code) => {
    const toy = simulate({
      ...busy,
      pages: 32_768,
      workingSet: 8192,
      migrate: { downtimeLimitMs: 100, timeBudgetMs: 10_000, policy },
    });
    const over = () => toy.clock.now();
    const at = toy.migration.result.then(over, over);
    const { code: ended } = await toy.settled();
    expect([policy, ended]).toEqual([policy, code]);
    expect(await at).toBeLessThan(10_200);
  });

  test('in round 1 a time budget ends it too, and the error says that the round was not complete', async () => {
    const toy = simulate({ ...busy, link: { bytesPerSecond: LINK / 100 }, migrate: { timeBudgetMs: 10_000 } });
    const ends = await toy.settled();
    expectStayed(toy, ends, 'GODWIT_NOT_CONVERGING');
    expect(toy.clock.now()).toBeLessThan(10_200);
    expect(((ends.sent as PromiseRejectedResult).reason as Error).message).toMatch(
      /the first round, which sends every page once, was not complete/,
    );
  });

  test('a preset that does not exist is refused, with the names that do', () => {
    expect(() => simulate({ ...busy, migrate: { policy: 'quick' as 'urgent' } })).toThrow(
      expect.objectContaining({
        code: 'GODWIT_INVALID_ARGUMENT',
        message:
          'policy must be a function or one of "gentle", "balanced", "urgent", "hybrid", "qemu", "vep248", "vep291", got "quick"',
      }),
    );
  });

  test('a round cap that gives up', async () => {
    const toy = simulate({
      ...busy,
      migrate: { downtimeLimitMs: 100, policy: firstOpinion(withinDowntimeLimit, roundCap(4, 'abort')) },
    });
    expectStayed(toy, await toy.settled(), 'GODWIT_NOT_CONVERGING');
    expect(toy.source.pauses).toBe(0);
    expect(toy.events.filter((event) => event.type === 'round')).toHaveLength(4);
  });

  test('a time budget that switches over', async () => {
    const summary = await moved(
      simulate({
        ...busy,
        migrate: { downtimeLimitMs: 100, policy: firstOpinion(withinDowntimeLimit, timeBudget(1500, 'switchover')) },
      }),
    );
    expect(summary.totalMs).toBeGreaterThan(1500);
    expect(summary.totalMs).toBeLessThan(2500);
    expect(summary.downtimeMs).toBeGreaterThan(100);
    expect(summary.rounds.at(-2)?.decision.reason).toBe('the time budget of 1500 ms is used up');
  });
});

describe('the bandwidth limit', () => {
  test.each([0, 2])('is obeyed while the guest runs, with %i page channels', async (pageChannels) => {
    const bandwidthLimit = LINK / 8;
    const toy = simulate({ dirtyPagesPerSecond: 300, pages: 32_768, migrate: { bandwidthLimit, pageChannels } });
    const summary = await moved(toy);
    const long = summary.rounds.filter(({ phase, wireBytes }) => phase === 'pre-copy' && wireBytes > 2 ** 22);
    expect(long.length).toBeGreaterThan(0);
    for (const { wireBytes, totalMs, limitMs } of long) {
      // One batch is not waited for, and a burst of 50 ms may have been saved up.
      const more = 2 ** 20 + bandwidthLimit * 0.05;
      expect(wireBytes / (totalMs / 1000)).toBeLessThan(bandwidthLimit * (1 + more / wireBytes) * 1.02);
      expect(wireBytes / (totalMs / 1000)).toBeGreaterThan(bandwidthLimit * 0.9);
      expect(limitMs).toBeGreaterThan(totalMs / 2);
    }
    // Lifted once it is paused.
    const last = summary.rounds.filter(({ phase }) => phase === 'stop-and-copy');
    expect(
      last.reduce((sum, { wireBytes }) => sum + wireBytes, 0) / (summary.downtime.ramMs.actualMs / 1000),
    ).toBeGreaterThan(LINK / 2);
    for (const { limitMs } of last) expect(limitMs).toBe(0);
  });
});

test('progress comes ten times a second, and agrees with the rounds', async () => {
  const toy = simulate({ dirtyPagesPerSecond: 8000 });
  const summary = await moved(toy);
  const progress = toy.events.flatMap((event) => (event.type === 'progress' ? [event.progress] : []));
  expect(Math.abs(progress.length - summary.totalMs / 100)).toBeLessThanOrEqual(12);
  let wireBytes = 0;
  for (const [index, one] of progress.entries()) {
    expect(one.elapsedMs).toBeCloseTo((index + 1) * 100, 6);
    expect(one.wireBytes).toBeGreaterThanOrEqual(wireBytes);
    wireBytes = one.wireBytes;
    expect(one.roundPagesSent).toBeLessThanOrEqual(one.roundPages);
    expect(one.rawBytes).toBe((one.pages.raw + one.pages.zero + one.pages.hole) * PAGE);
  }
  const sum = { raw: 0, zero: 0, hole: 0 };
  for (const { pages } of summary.rounds) {
    sum.raw += pages.raw;
    sum.zero += pages.zero;
    sum.hole += pages.hole;
  }
  expect(summary.pages).toEqual({ ...sum, delta: 0, compressed: 0 });
  expect(summary.rawBytes).toBe((sum.raw + sum.zero + sum.hole) * PAGE);
  expect(summary.wireBytes).toBeGreaterThan(summary.rounds.reduce((bytes, round) => bytes + round.wireBytes, 0) * 0.99);
});

test('the records of the rounds hold together', async () => {
  const toy = simulate({ dirtyPagesPerSecond: 8500, filledPages: 5000, migrate: { downtimeLimitMs: 100 } });
  const { rounds } = await moved(toy);
  expect(rounds.length).toBeGreaterThan(3);
  const started = toy.events.flatMap((event) => (event.type === 'round-start' ? [event] : []));
  expect(started.map(({ round, dirtyPages }) => [round, dirtyPages])).toEqual(
    rounds.map(({ round, dirtyPages }) => [round, dirtyPages]),
  );
  for (const round of rounds) {
    expect(round.pages.raw + round.pages.zero + round.pages.hole).toBe(round.dirtyPages);
    expect(round.rawBytes).toBe(round.dirtyPages * PAGE);
    expect(round.wireBytes).toBeGreaterThanOrEqual(round.pages.raw * PAGE);
    expect(round.scanMs + round.sendMs + round.limitMs).toBeLessThanOrEqual(round.totalMs + 1e-6);
    expect(Object.values(round.prediction).reduce((sum, ms) => sum + ms, 0)).toBeCloseTo(round.predictedDowntimeMs, 6);
    if (round.phase === 'pre-copy' && round.decision.action === 'continue')
      expect(round.predictedDowntimeMs).toBeGreaterThan(100);
  }
  const last = rounds.filter(({ phase }) => phase === 'pre-copy').at(-1);
  expect(last?.decision.action).toBe('switchover');
  expect(last?.predictedDowntimeMs).toBeLessThanOrEqual(100);
});

test('a sparse guest moves in the time of what it has touched, and stays sparse', async () => {
  const toy = simulate({ dirtyPagesPerSecond: 0, filledPages: 64 });
  const summary = await moved(toy);
  expect(summary.rounds[0]?.dirtyPages).toBe(64);
  expect(summary.wireBytes).toBeLessThan(65 * PAGE + 20_000);
  const [source] = toy.source.memory.blocks;
  const [destination] = toy.destination.memory.blocks;
  expect([...(destination?.populated?.() ?? [])]).toEqual([...(source?.populated?.() ?? [])]);
});

test('nothing that anybody could wait for is left when it is over', async () => {
  const toy = simulate({ dirtyPagesPerSecond: 100 });
  await moved(toy);
  const end = toy.clock.now();
  // The guest's own last sleep is all that there is.
  await toy.clock.yield();
  await toy.clock.sleep(0);
  expect(toy.clock.now() - end).toBeLessThanOrEqual(1);
  expect(toy.clock.sleepers).toBeLessThanOrEqual(1);
});

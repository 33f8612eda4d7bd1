import type { ConvergencePolicy, DirtyTracker, Frame, MigrationSummary, RoundRecord } from '@godwit/core';
import { FaultyDevice, type FrameTap, ToyVm, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { ThrottledVm } from './throttled-vm.js';
import { BLOCKS, expectMoved, filledVm, PAGE, start, switchAfter, type Toy, type ToyOptions } from './toy-migration.js';

/** What takes how long in the first stop-and-copy. Milliseconds; `hang`: for ever. */
interface Times {
  readonly pauseMs?: number;
  readonly saveMs?: number;
  readonly loadMs?: number;
  readonly resumeMs?: number;
  /** The harvest with this number (from 1, counted from the start of the migration), and what it takes. */
  readonly slowHarvest?: readonly [number, number];
  /** The end of this round is lost. */
  readonly loseRoundEnd?: number;
  /** Called as a harvest with this number ends. */
  readonly onHarvest?: (harvest: number, world: { source: ToyVm; skip: (ms: number) => void }) => void;
}

const LONG = 5000;

/** A migration whose guest writes pages 3 and 5 as it is paused, and page 9 as its device is saved. */
function begin(
  times: Times,
  { clock = new VirtualClock(), ...options }: ToyOptions = {},
): Toy & { readonly source: ToyVm } {
  // Clocks do not begin at 0.
  const now = clock.now.bind(clock);
  let ahead = 1000;
  clock.now = () => now() + ahead;
  const skip = (ms: number) => {
    ahead += ms;
  };
  const source = filledVm();
  const { software } = source;
  let harvests = 0;
  const tracker: DirtyTracker = {
    name: 'slow',
    start: () => software.start(),
    stop: () => software.stop(),
    harvest: async (into) => {
      const [slow, ms] = times.slowHarvest ?? [0, 0];
      if (++harvests === slow) await clock.sleep(ms);
      await software.harvest(into);
      times.onHarvest?.(harvests, { source, skip });
    },
  };
  source.trackers = [tracker];
  let saves = 0;
  source.devices = [
    Object.assign(new FaultyDevice('uart'), {
      async *save(signal?: AbortSignal) {
        if (++saves === 1 && times.saveMs !== undefined) await clock.sleep(times.saveMs, signal);
        source.deviceWrite(0, 9 * PAGE, Uint8Array.of(9));
        yield new Uint8Array(100).fill(1);
      },
    }),
  ];
  source.onPause = async () => {
    if (source.pauses === 1 && times.pauseMs !== undefined) await clock.sleep(times.pauseMs);
    for (const page of [3, 5]) source.deviceWrite(0, page * PAGE, Uint8Array.of(1));
  };
  const device = new FaultyDevice('uart');
  const load = device.load.bind(device);
  let loads = 0;
  const slowly = async (state: AsyncIterable<Uint8Array>): Promise<void> => {
    await load(state);
    if (++loads === 1 && times.loadMs !== undefined) await clock.sleep(times.loadMs);
  };
  Object.assign(device, { load: slowly, reset: async () => {}, loadWrites: () => [] });
  const destination = new ToyVm(BLOCKS, { running: false, devices: [device] });
  destination.onResume = () => clock.sleep(times.resumeMs ?? 0);
  let lost = false;
  const toy = start({
    ...{ clock, source, destination },
    ...options,
    link: {
      fromSource: (frame: Frame, payload) => {
        if (frame.type !== 'roundEnd' || source.running || lost) return { frame, payload };
        lost = frame.round === times.loseRoundEnd;
        return lost ? undefined : { frame, payload };
      },
      ...options.link,
    },
    migrate: { policy: switchAfter(1), pauseLimitMs: 200, progressIntervalMs: 0, ...options.migrate },
  });
  return Object.assign(toy, { source });
}

const rounds = ({ events }: Toy) => events.flatMap((event) => (event.type === 'round' ? [event.round] : []));

describe('a step of a stop-and-copy that takes too long is named', () => {
  // Harvest 1 ends round 1; 2, 3 and 4 are those of the first stop-and-copy.
  test.each<readonly [string, Times, string]>([
    ['the harvest of what is left', { slowHarvest: [2, LONG] }, 'harvestMs'],
    ['sending what is left', { loseRoundEnd: 2 }, 'ramMs'],
    ['saving', { saveMs: LONG }, 'deviceMs'],
    ['the harvest of what saving has written', { slowHarvest: [3, LONG] }, 'harvestMs'],
    ['sending what saving has written', { loseRoundEnd: 3 }, 'ramMs'],
    ['loading', { loadMs: 10_000 }, 'loadMs'],
    ['the last harvest', { slowHarvest: [4, LONG] }, 'harvestMs'],
  ])('%s', async (_, times, term) => {
    const toy = begin(times);
    expectMoved(toy, await toy.settled());
    expect(toy.events.filter(({ type }) => type === 'went-back')).toEqual([
      {
        ...{ type: 'went-back', attempt: 1, term, elapsedMs: 200, limitMs: 200 },
        reason: expect.objectContaining({ code: 'GODWIT_SWITCHOVER_OVERRAN' }),
      },
    ]);
    expect(toy.events.filter(({ type }) => type === 'switchover-start')).toEqual([
      { type: 'switchover-start', attempt: 1, limitMs: 200 },
      { type: 'switchover-start', attempt: 2, limitMs: 200 },
    ]);
    expect(toy.source.resumes).toBe(1);
  });
});

test('a destination that does not answer at all once it is to load is given up at the bound', async () => {
  const toy = begin(
    {},
    {
      link: {
        fromDestination: (frame, payload) => {
          const silent = toy.source.resumes === 0 && !toy.source.running;
          return silent && (frame.type === 'pong' || frame.type === 'ready') ? undefined : { frame, payload };
        },
      },
    },
  );
  expectMoved(toy, await toy.settled());
  expect(toy.events.filter(({ type }) => type === 'went-back')).toMatchObject([
    { attempt: 1, term: 'loadMs', elapsedMs: 200, reason: { code: 'GODWIT_SWITCHOVER_OVERRAN' } },
  ]);
});

test('a link that is lost with the guest paused is told with its own reason', async () => {
  let cuts = 0;
  const toy = begin(
    {},
    {
      link: {
        fromDestination: (frame, payload) => {
          if (frame.type !== 'ready' || cuts++ > 0) return { frame, payload };
          toy.link.cut();
          return undefined;
        },
      },
      migrate: { pauseLimitMs: 60_000 },
    },
  );
  expectMoved(toy, await toy.settled());
  expect(toy.events.filter(({ type }) => type === 'link-lost')).toMatchObject([
    { reason: { code: 'GODWIT_LINK_LOST', message: 'the link was cut' } },
  ]);
  expect(toy.source.pauses).toBe(1);
});

describe('the last check before the transfer', () => {
  test('notices a bound that was passed while this thread was busy, and no timer could fire', async () => {
    const toy = begin({ onHarvest: (harvest, { skip }) => (harvest === 4 ? skip(500) : undefined) });
    expectMoved(toy, await toy.settled());
    expect(toy.events.filter(({ type }) => type === 'went-back')).toMatchObject([{ attempt: 1, term: 'harvestMs' }]);
  });

  test('notices a guest that has ended', async () => {
    const toy = begin({
      onHarvest: (harvest, { source }) => {
        source.ended ||= harvest === 4;
      },
    });
    const ends = await toy.settled();
    expect([ends.code, toy.destination.resumes, toy.migration.ownership]).toEqual(['GODWIT_GUEST_ENDED', 0, 'kept']);
  });
});

test('without a bound of its own an attempt may take twice the downtime limit that its decision has', async () => {
  const policy: ConvergencePolicy = () => ({ action: 'switchover', reason: 'it is time', downtimeLimitMs: 700 });
  const toy = begin({}, { migrate: { policy, pauseLimitMs: undefined as never } });
  expectMoved(toy, await toy.settled());
  expect(toy.events.filter(({ type }) => type === 'switchover-start')).toMatchObject([{ limitMs: 1400 }]);
});

describe('the comparison of all RAM', () => {
  test('does not count in the bound, however long it takes', async () => {
    let skip: (ms: number) => void = () => {};
    const onHarvest: Times['onHarvest'] = (_, world) => {
      skip = world.skip;
    };
    const fromSource: FrameTap = (frame, payload) => {
      if (frame.type === 'digests') skip(500);
      return { frame, payload };
    };
    const toy = begin({ onHarvest }, { migrate: { verify: true }, link: { fromSource } });
    expectMoved(toy, await toy.settled());
    expect(toy.events.filter(({ type }) => type === 'verified')).toMatchObject([{ verifyMs: 500 }]);
    expect(toy.events.filter(({ type }) => type === 'went-back')).toEqual([]);
    expect(toy.source.pauses).toBe(1);
  });

  test('has what follows count again', async () => {
    const toy = begin({ slowHarvest: [4, LONG] }, { migrate: { verify: true } });
    expectMoved(toy, await toy.settled());
    expect(toy.events.filter(({ type }) => type === 'went-back')).toMatchObject([
      { attempt: 1, term: 'harvestMs', elapsedMs: 200 },
    ]);
  });
});

describe('a destination that cannot go back', () => {
  const link: ToyOptions['link'] = {
    fromDestination: (frame, payload) => {
      if (frame.type !== 'welcome') return { frame, payload };
      return { frame: { ...frame, features: frame.features.filter((name) => name !== 'back') }, payload };
    },
  };

  test('is not given up on: there is no bound', async () => {
    const toy = begin({ saveMs: 3000 }, { link });
    expectMoved(toy, await toy.settled());
    expect(toy.source.pauses).toBe(1);
  });

  test('has the migration end when the link is lost with the guest paused, and the guest run on', async () => {
    const toy = begin({ onHarvest: (harvest) => (harvest === 2 ? toy.link.cut() : undefined) }, { link });
    const ends = await toy.settled();
    expect([ends.code, toy.source.running, toy.destination.resumes]).toEqual(['GODWIT_LINK_LOST', true, 0]);
    expect(toy.events.filter(({ type }) => type === 'went-back')).toEqual([]);
  });
});

test.each([
  ['a migration that succeeds', {}],
  ['one that goes back once', { saveMs: LONG }],
])('the timer of the bound does not outlive %s', async (_, times: Times) => {
  const clock = new VirtualClock();
  const sleep = clock.sleep.bind(clock);
  const asleep = new Set<number>();
  clock.sleep = (ms, signal) => {
    // Times that nothing else has.
    const own = ms > 170 && ms <= 200;
    if (own) asleep.add(ms);
    const sleeping = sleep(ms, signal);
    const over = () => void asleep.delete(ms);
    if (own) sleeping.then(over, over);
    return sleeping;
  };
  const toy = begin(times, { clock });
  const left = toy.migration.result.then(() => [...asleep]);
  expectMoved(toy, await toy.settled());
  expect(await left).toEqual([]);
});

test('with force nothing that is left is too much', async () => {
  // Two pages, where not even one can be sent within the limit.
  const link = { bytesPerSecond: 40_960 };
  const toy = begin({}, { link, migrate: { force: true, downtimeLimitMs: 10 } });
  expectMoved(toy, await toy.settled());
  expect(toy.events.filter(({ type }) => type === 'went-back')).toEqual([]);
  expect(toy.source.pauses).toBe(1);
});

describe('what the steps of an attempt have taken is what the next prediction says', () => {
  const predicted = async (times: Times) => {
    const toy = begin(times);
    expectMoved(toy, await toy.settled());
    expect(toy.events.filter(({ type }) => type === 'went-back')).toHaveLength(1);
    return rounds(toy).findLast(({ phase }) => phase === 'pre-copy')?.prediction;
  };

  test('of the pause, the device and the loading', async () => {
    const prediction = await predicted({ pauseMs: 3, saveMs: 40, loadMs: 70, slowHarvest: [4, LONG] });
    expect(prediction).toMatchObject({ pauseMs: 3, deviceMs: 40, loadMs: 70 });
  });

  test('of the pages, where the link is no slower than before', async () => {
    let skip: (ms: number) => void = () => {};
    const measured = async (pausedMs: number) => {
      const toy = begin(
        {
          loadMs: 10_000,
          onHarvest: (_, world) => {
            skip = world.skip;
          },
        },
        {
          migrate: { pauseLimitMs: 3000, downtimeLimitMs: 3000 },
          link: {
            // Round 1 takes long enough for the rate to be known.
            bytesPerSecond: 200_000,
            fromSource: (frame, payload) => {
              if (frame.type === 'pages' && !toy.source.running && toy.source.resumes === 0) skip(pausedMs);
              return { frame, payload };
            },
          },
        },
      );
      expectMoved(toy, await toy.settled());
      const [first, last] = rounds(toy).filter(({ phase }) => phase === 'pre-copy');
      return { first: first as RoundRecord, last: last as RoundRecord };
    };
    const [usual, slower] = [await measured(0), await measured(600)];
    expect(slower.last.prediction.ramMs).toBeGreaterThan(3 * usual.last.prediction.ramMs);
    expect(slower.last.linkBytesPerSecond).toBeCloseTo(usual.last.linkBytesPerSecond, -4);
  });

  test('of the harvest', async () => {
    const prediction = await predicted({ slowHarvest: [2, 50], loadMs: 10_000 });
    expect(prediction?.harvestMs).toBeGreaterThan(10);
  });
});

test('the rounds of a stop-and-copy have the pages that were left, and the times of their steps', async () => {
  const link = { latencyMs: 2, bytesPerSecond: 4_096_000 };
  const times = { pauseMs: 3, saveMs: 4, loadMs: 7, resumeMs: 5, slowHarvest: [2, 11] as const };
  const toy = begin(times, { link, migrate: { verify: true } });
  const ends = await toy.settled();
  expectMoved(toy, ends);
  const [before, ...paused] = rounds(toy);
  const { prediction, predictionRange, predictedDowntimeMs, predictedDowntimeRangeMs } = before as RoundRecord;
  const same = {
    ...{ phase: 'stop-and-copy', deferredPages: 0, savedBytes: 0, scanMs: 0, limitMs: 0, throttle: 0 },
    ...{ newlyDirtyPages: 0, trackers: [], dirtyPagesPerSecond: 0, linkBytesPerSecond: expect.any(Number) },
    endedAtMs: expect.any(Number),
    ...{ prediction, predictionRange, predictedDowntimeMs, predictedDowntimeRangeMs },
    decision: { action: 'switchover', reason: 'the guest is paused: these pages were left' },
  };
  const raw = (pages: number) => ({
    ...{ dirtyPages: pages, rawBytes: pages * PAGE, pages: { raw: pages, zero: 0, hole: 0, delta: 0, compressed: 0 } },
  });
  // Two pages and the end of the round are on the wire for 2 ms, and a round trip is 4 ms; then comes the device.
  const near = (ms: number) => expect.closeTo(ms, 1);
  expect(paused).toEqual([
    {
      ...same,
      ...raw(2),
      round: 2,
      wireBytes: 8356,
      deviceBytes: 100,
      sendMs: near(6),
      harvestMs: 11,
      totalMs: near(10),
    },
    { ...same, ...raw(1), round: 3, wireBytes: 4128, deviceBytes: 0, sendMs: near(5), harvestMs: 0, totalMs: near(5) },
  ]);
  const { downtime, downtimeMs, verifiedPages, verifyMs, heldMs } = (
    ends.sent as PromiseFulfilledResult<MigrationSummary>
  ).value;
  const actual = Object.fromEntries(Object.entries(downtime).map(([term, { actualMs }]) => [term, actualMs]));
  expect(actual).toEqual({
    ...{ pauseMs: 3, harvestMs: 11, ramMs: near(11), deviceMs: near(4), loadMs: 7, roundTripMs: near(6), resumeMs: 5 },
  });
  expect([downtimeMs, verifiedPages, verifyMs, heldMs]).toEqual([near(47.1), 35, near(4.1), 0]);
  expect(toy.events.filter(({ type }) => type === 'verified')).toEqual([{ type: 'verified', pages: 35, verifyMs }]);
});

test('a guest that was held back is let go of once it is paused', async () => {
  const source = new ThrottledVm(BLOCKS);
  source.write(0, 0, new Uint8Array(8 * PAGE).fill(1));
  const reason = 'a test';
  const toy = start({
    source,
    migrate: {
      policy: ({ outcome }) =>
        outcome.round < 2 ? { action: 'throttle', fraction: 0.5, reason } : { action: 'switchover', reason },
    },
  });
  expectMoved(toy, await toy.settled());
  expect(toy.events.filter(({ type }) => type === 'throttle')).toEqual([
    { type: 'throttle', fraction: 0.5, previous: 0, reason },
    { type: 'throttle', fraction: 0, previous: 0.5, reason: 'the guest is paused' },
  ]);
});

import {
  type ConvergencePolicy,
  firstOpinion,
  type PolicyInput,
  type RoundOutcome,
  roundCap,
  timeBudget,
  totalDowntime,
  withinDowntimeLimit,
} from '@godwit/core';
import { engineParts, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

const { BandwidthLimit, DowntimeModel, LinkRate } = engineParts;

describe('BandwidthLimit', () => {
  test('over any time, no more than the limit, one burst and one batch passes', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 2000, max: 100_000 }),
        fc.array(fc.record({ bytes: fc.nat(5000), pauseMs: fc.nat(300) }), { minLength: 1, maxLength: 30 }),
        async (bytesPerSecond, batches) => {
          const clock = new VirtualClock();
          const limit = new BandwidthLimit(clock, bytesPerSecond);
          const passed: { readonly at: number; readonly bytes: number }[] = [];
          for (const { bytes, pauseMs } of batches) {
            await clock.sleep(pauseMs);
            await limit.wait(new AbortController().signal);
            limit.charge(bytes);
            passed.push({ at: clock.now(), bytes });
          }
          for (const [from, first] of passed.entries()) {
            let sum = 0;
            for (const last of passed.slice(from)) {
              // All but the last batch were paid for before the last one went, from a burst of 50 ms at most.
              expect(sum).toBeLessThanOrEqual(((last.at - first.at + 50) / 1000) * bytesPerSecond + 1e-6);
              sum += last.bytes;
            }
          }
        },
      ),
      { numRuns: 50 },
    );
  });

  test('no time is lost: a debt and a burst are waited for as long as it takes, to the millisecond', async () => {
    const clock = new VirtualClock();
    const limit = new BandwidthLimit(clock, 1000);
    limit.charge(2500);
    expect(limit.open).toBe(false);
    await limit.wait(new AbortController().signal);
    expect(clock.now()).toBeCloseTo(2550, -1);
  });

  test('idle time is no credit', async () => {
    const clock = new VirtualClock();
    const limit = new BandwidthLimit(clock, 1000);
    await clock.sleep(60_000);
    limit.charge(1000);
    expect(limit.open).toBe(false);
    await limit.wait(new AbortController().signal);
    expect(clock.now()).toBeCloseTo(61_000, -1);
  });

  test('0 is no limit; a new limit forgives old debts, also in the middle of a wait', async () => {
    const clock = new VirtualClock();
    const limit = new BandwidthLimit(clock, 0);
    limit.charge(1e12);
    expect(limit.open).toBe(true);
    limit.bytesPerSecond = 1;
    limit.charge(1e6);
    void clock.sleep(5000).then(() => {
      limit.bytesPerSecond = 10;
    });
    await limit.wait(new AbortController().signal);
    expect(clock.now()).toBeLessThanOrEqual(5100);
  });

  test('a wait ends with its signal', async () => {
    const clock = new VirtualClock();
    const limit = new BandwidthLimit(clock, 1);
    limit.charge(1e9);
    const stop = new AbortController();
    void clock.sleep(250).then(() => stop.abort(new Error('stop')));
    await expect(limit.wait(stop.signal)).rejects.toThrow('stop');
    expect(clock.now()).toBe(250);
  });
});

describe('LinkRate', () => {
  test('of a steady link is its rate, whatever the sizes of the rounds', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 1e10 }),
        fc.array(fc.integer({ min: 1, max: 1e12 }), { minLength: 1, maxLength: 20 }),
        (rate, rounds) => {
          const link = new LinkRate();
          for (const bytes of rounds) link.add(bytes, Math.max(1, (bytes / rate) * 1000));
          const known = link.bytesPerSecond ?? 0;
          expect(known).toBeLessThanOrEqual(rate * 1.000001);
        },
      ),
    );
    const link = new LinkRate();
    expect(link.bytesPerSecond).toBeUndefined();
    for (const bytes of [1e9, 1e6, 1e7]) link.add(bytes, bytes / 1e5);
    expect(link.bytesPerSecond).toBeCloseTo(1e8);
  });

  test('a changed link is believed after about a second of it, in whatever rounds', () => {
    for (const roundMs of [10, 100, 1000]) {
      for (const [before, after] of [
        [1e9, 1e8],
        [1e8, 1e9],
      ] as const) {
        const link = new LinkRate();
        link.add(before * 10, 10_000);
        for (let ms = 0; ms < 2000; ms += roundMs) link.add((after * roundMs) / 1000, roundMs);
        const known = link.bytesPerSecond ?? 0;
        expect([roundMs, after, Math.abs(known - after) / after < 0.75]).toEqual([roundMs, after, true]);
      }
    }
  });

  test('a round that does not load the link teaches nothing, however often it comes', () => {
    const link = new LinkRate();
    link.add(1e9, 1000);
    for (let i = 0; i < 1000; i++) link.add(4096, 3);
    for (let i = 0; i < 1000; i++) link.add(2 ** 20, 1, 100);
    expect(link.bytesPerSecond).toBe(1e9);
  });

  test('before any round that does, the best of those is a lower bound', () => {
    const link = new LinkRate();
    link.add(12e6, 0, 1800);
    expect(link.bytesPerSecond).toBeCloseTo(12e6 / 1.8);
    link.add(4096, 1);
    expect(link.bytesPerSecond).toBeCloseTo(12e6 / 1.8);
    link.add(1e6, 0, 10);
    expect(link.bytesPerSecond).toBeCloseTo(1e8);
    link.add(1e6, 100);
    expect(link.bytesPerSecond).toBeCloseTo(1e7);
  });
});

const round = (change: Partial<engineParts.SentRound>): engineParts.SentRound => ({
  pages: { raw: 1000, zero: 0, hole: 0, delta: 0, compressed: 0 },
  rawBytes: 4_096_000,
  wireBytes: 4_096_000,
  savedBytes: 0,
  scanMs: 1,
  sendMs: 100,
  limitMs: 0,
  totalMs: 101,
  burstBytes: 4_096_000,
  burstMs: 100,
  burstWallMs: change.burstMs ?? 100,
  ...change,
});

describe('DowntimeModel', () => {
  test('the prediction is the sum of its terms, each at least 0', () => {
    fc.assert(
      fc.property(
        fc.nat(1e6),
        fc.nat(1e6),
        fc.nat(1e6),
        fc.nat(1e5),
        fc.nat(1e5),
        (raw, zero, wireBytes, burstMs, dirtyPages) => {
          const model = new DowntimeModel();
          model.roundTrip(3);
          model.harvested(2);
          model.sent(
            round({
              pages: { raw, zero, hole: 0, delta: 0, compressed: 0 },
              wireBytes,
              burstBytes: wireBytes,
              burstMs,
            }),
          );
          const terms = model.predict({ dirtyPages, deviceBytes: 5000 });
          for (const ms of Object.values(terms)) expect(ms).toBeGreaterThanOrEqual(0);
          expect(totalDowntime(terms)).toBeCloseTo(Object.values(terms).reduce((sum, ms) => sum + ms, 0));
        },
      ),
    );
  });

  test("RAM that was mostly zero in round 1 does not make the guest's pages look like nothing", () => {
    const model = new DowntimeModel();
    model.sent(round({ pages: { raw: 1000, zero: 1e6, hole: 1e6, delta: 0, compressed: 0 } }));
    expect(model.predict({ dirtyPages: 1000, deviceBytes: 0 }).ramMs).toBeGreaterThan(100);
    const empty = new DowntimeModel();
    empty.sent(
      round({
        pages: { raw: 0, zero: 1e6, hole: 0, delta: 0, compressed: 0 },
        wireBytes: 1e4,
        burstBytes: 1e4,
        burstMs: 1,
      }),
    );
    const { prediction, predictionRange } = empty.forecast({ dirtyPages: 1000, deviceBytes: 0 });
    expect(prediction.ramMs).toBeGreaterThan(100);
    expect(predictionRange.ramMs[1]).toBeGreaterThan(400);
  });

  test('later rounds show what the guest writes: pages that become zero cost next to nothing', () => {
    const model = new DowntimeModel();
    model.sent(round({}));
    for (let i = 0; i < 5; i++)
      model.sent(
        round({
          pages: { raw: 0, zero: 1000, hole: 0, delta: 0, compressed: 0 },
          wireBytes: 1000,
          burstBytes: 1000,
          burstMs: 0.1,
        }),
      );
    expect(model.predict({ dirtyPages: 1000, deviceBytes: 0 }).ramMs).toBeLessThan(5);
  });

  test('a round that our own limit stretched does not slow the link down', () => {
    const model = new DowntimeModel();
    model.sent(round({ totalMs: 10_000, limitMs: 9900, sendMs: 100, burstBytes: 1_000_000, burstMs: 10 }));
    expect(model.linkBytesPerSecond).toBeCloseTo(1e8);
  });

  test('an earlier migration is believed where this one knows nothing', () => {
    const prior = { pauseMs: 11, loadMs: 12, resumeMs: 13, roundTripMs: 14, deviceMs: 15 };
    const terms = new DowntimeModel(prior).predict({ dirtyPages: 0, deviceBytes: 0 });
    expect(terms).toMatchObject({ pauseMs: 11, loadMs: 12, resumeMs: 13, roundTripMs: 14, deviceMs: 15, ramMs: 0 });
  });
});

describe('policies', () => {
  const input = (change: {
    readonly predictedDowntimeMs?: number;
    readonly round?: number;
    readonly elapsedMs?: number;
  }): PolicyInput => ({
    moment: 'round-end',
    outcome: { round: 1, predictedDowntimeMs: 1000, ...change } as RoundOutcome,
    history: [],
    downtimeLimitMs: 300,
    pauseLimitMs: 600,
    elapsedMs: change.elapsedMs ?? 0,
    fixedDowntimeMs: 0,
    overruns: 0,
    unpreparedMs: 0,
    timeBudgetMs: undefined,
    throttle: 0,
    canThrottle: false,
    canPostcopy: false,
    bandwidthLimit: 0,
    pagesPerSecond: undefined,
    pageSize: 4096,
  });

  test('withinDowntimeLimit', () => {
    expect(withinDowntimeLimit(input({ predictedDowntimeMs: 300 }))).toMatchObject({ action: 'switchover' });
    expect(withinDowntimeLimit(input({ predictedDowntimeMs: 300.1 }))).toBeUndefined();
    expect(withinDowntimeLimit(input({ predictedDowntimeMs: Number.NaN }))).toBeUndefined();
  });

  test('roundCap and timeBudget', () => {
    expect(roundCap(3, 'abort')(input({ round: 2 }))).toBeUndefined();
    expect(roundCap(3, 'abort')(input({ round: 3 }))).toMatchObject({ action: 'abort' });
    expect(timeBudget(500, 'switchover')(input({ elapsedMs: 499 }))).toBeUndefined();
    expect(timeBudget(500, 'switchover')(input({ elapsedMs: 500 }))).toMatchObject({ action: 'switchover' });
  });

  test('firstOpinion asks in order, and nobody after the first who answers', () => {
    const asked: string[] = [];
    const policy =
      (name: string, action?: 'continue' | 'abort'): ConvergencePolicy =>
      () => {
        asked.push(name);
        return action === undefined ? undefined : { action, reason: name };
      };
    expect(firstOpinion(policy('a'), policy('b', 'abort'), policy('c', 'continue'))(input({}))).toEqual({
      action: 'abort',
      reason: 'b',
    });
    expect(asked).toEqual(['a', 'b']);
    expect(firstOpinion()(input({}))).toBeUndefined();
  });
});

import { engineParts, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';

const { DowntimeModel, PageGrowth, destinationOutlook, guess } = engineParts;

const MIB = 2 ** 20;
const NOTHING_PENDING = { dirtyPages: 0, deviceBytes: 0 };

/** A round of so many raw pages that took `ms` of waiting for the link, and nothing else. */
function round(pages: number, ms: number, change: Partial<engineParts.SentRound> = {}): engineParts.SentRound {
  const bytes = change.wireBytes ?? pages * 4096;
  return {
    ...{ pages: { raw: pages, zero: 0, hole: 0, delta: 0, compressed: 0 }, rawBytes: pages * 4096, wireBytes: bytes },
    ...{ savedBytes: 0, scanMs: 0, sendMs: ms, limitMs: 0, totalMs: ms },
    ...{ burstBytes: bytes, burstMs: ms, burstWallMs: ms },
    ...change,
  };
}

const width = ([low, high]: readonly [number, number]): number => high / Math.max(low, 1e-9);

describe('the RAM term', () => {
  test('is wide before rounds were compared with their predictions, and narrower with every round that agrees', () => {
    const model = new DowntimeModel();
    model.roundTrip(0);
    const widths: number[] = [];
    for (let i = 0; i < 10; i++) {
      model.sent(round(10_000, 400));
      const { prediction, predictionRange } = model.forecast({ dirtyPages: 10_000, deviceBytes: 0 });
      expect(prediction.ramMs).toBeCloseTo(400, 6);
      widths.push(width(predictionRange.ramMs));
    }
    expect(widths[0]).toBeGreaterThan(5);
    expect(widths[9]).toBeLessThan(3);
    // From the second comparison on: one that agrees may be chance.
    const later = widths.slice(3);
    expect([...later].sort((a, b) => b - a)).toEqual(later);
  });

  test('has what rounds were off inside its interval', () => {
    const model = new DowntimeModel();
    model.sent(round(10_000, 400));
    for (const ms of [800, 200, 800, 200, 800, 200]) model.sent(round(10_000, ms));
    const [low, high] = model.forecast({ dirtyPages: 10_000, deviceBytes: 0 }).predictionRange.ramMs;
    expect(low).toBeLessThan(200);
    expect(high).toBeGreaterThan(800);
  });

  describe('of rounds that are encoded for a bandwidth limit', () => {
    /** 10,000 pages that became 100 bytes each, and took a second: both ends encode and decode. */
    const encoded = (change: Partial<engineParts.SentRound> = {}) =>
      round(10_000, 1000, {
        ...{ pages: { raw: 0, zero: 0, hole: 0, delta: 0, compressed: 10_000 }, wireBytes: 1e6, savedBytes: 39.96e6 },
        ...{ encodedForLimit: true, burstEncoded: 1 },
        ...change,
      });
    const paused = (model: engineParts.DowntimeModel) =>
      model.forecast({ dirtyPages: 1000, deviceBytes: 0, paused: true }).prediction.ramMs;

    test('is that of raw pages over the link, which a probe has shown', () => {
      const model = new DowntimeModel();
      model.channels = 1;
      model.roundTrip(0);
      model.sent(encoded());
      expect(model.linkKnown).toBe(false);
      model.probed(4e6, 10);
      expect(model.linkBytesPerSecond).toBe(400e6);
      expect(paused(model)).toBeCloseTo(1000 * (4.096e6 / 400e6), 1);
      // Later rounds of the same kind change nothing.
      for (let i = 0; i < 5; i++) model.sent(encoded());
      expect(paused(model)).toBeCloseTo(1000 * (4.096e6 / 400e6), 1);
      // Pages have to be put in their place too, however fast the link is.
      model.probed(400e6, 10);
      expect(paused(model)).toBeCloseTo(4.096, 1);
    });

    test('goes by rounds that were raw, where there are some', () => {
      const model = new DowntimeModel();
      model.roundTrip(0);
      for (let i = 0; i < 3; i++) model.sent(round(10_000, 400));
      model.sent(encoded());
      expect(model.linkBytesPerSecond).toBeCloseTo(102.4e6, -3);
      expect(paused(model)).toBeCloseTo(40, 0);
    });

    test('is that of encoded pages where a slow link makes encodings worth it, which the pause does not change', () => {
      const model = new DowntimeModel();
      model.roundTrip(0);
      for (let i = 0; i < 3; i++) model.sent(encoded({ encodedForLimit: false }));
      expect(model.linkBytesPerSecond).toBeCloseTo(1e6, -3);
      expect(paused(model)).toBeCloseTo(100, 0);
    });
  });

  describe('of a sender that waited for its processor', () => {
    /** The expected time of pages that have taken 100 ms in each round, at this rate, and its interval. */
    const expected = (bytesPerSecond: number, burstProcessor: engineParts.SentRound['burstProcessor']) => {
      const model = new DowntimeModel();
      model.roundTrip(0);
      const pages = Math.round(bytesPerSecond / 10 / 4096);
      for (let i = 0; i < 6; i++) model.sent(round(pages, 100, { burstProcessor }));
      const { prediction, predictionRange } = model.forecast({ dirtyPages: pages, deviceBytes: 0 });
      return { ms: prediction.ramMs, range: predictionRange.ramMs };
    };

    test('is the time that it ran, over a link that could be as fast', () => {
      const { ms, range } = expected(400e6, { threads: 1, ranMs: 20, waitedMs: 60 });
      expect(ms).toBeCloseTo(25, 0);
      expect(range[0]).toBeLessThan(10);
      expect(range[1]).toBeGreaterThan(60);
    });

    test('is the same as before where it had its processor for itself', () => {
      expect(expected(400e6, { threads: 1, ranMs: 80, waitedMs: 0 }).ms).toBeCloseTo(100, 0);
    });

    test('is the same as before over a slow link, which it waits for in any case', () => {
      expect(expected(30e6, { threads: 1, ranMs: 2, waitedMs: 6 }).ms).toBeCloseTo(100, 0);
    });

    test('is a part of it between the two', () => {
      const { ms } = expected(60e6, { threads: 1, ranMs: 2, waitedMs: 6 });
      expect(ms).toBeGreaterThan(40);
      expect(ms).toBeLessThan(80);
    });

    test('is longer for threads that wait for each other', () => {
      expect(expected(400e6, { threads: 2, ranMs: 40, waitedMs: 120 }).ms).toBeCloseTo(62.5, 0);
      expect(expected(400e6, { threads: 4, ranMs: 80, waitedMs: 240 }).ms).toBeCloseTo(81.25, 0);
    });

    test('is a tenth at least, whatever the scheduler says', () => {
      expect(expected(400e6, { threads: 1, ranMs: 0, waitedMs: 80 }).ms).toBeCloseTo(10, 0);
    });

    test('follows rounds that wait less', () => {
      const model = new DowntimeModel();
      model.roundTrip(0);
      const waiting = (waitedMs: number) => round(10_000, 100, { burstProcessor: { threads: 1, ranMs: 20, waitedMs } });
      for (let i = 0; i < 4; i++) model.sent(waiting(60));
      for (let i = 0; i < 12; i++) model.sent(waiting(0));
      expect(model.forecast({ dirtyPages: 10_000, deviceBytes: 0 }).prediction.ramMs).toBeGreaterThan(90);
    });
  });

  test('with the guest paused, is learned from an attempt that was given up', () => {
    const model = new DowntimeModel();
    // 1 GB/s: processors may be what was waited for.
    for (let i = 0; i < 4; i++) model.sent(round(25_000, 102.4));
    const before = model.forecast({ dirtyPages: 25_000, deviceBytes: 0 });
    expect(before.prediction.ramMs).toBeCloseTo(103, 0);
    expect(before.predictionRange.ramMs[0]).toBeLessThan(30);
    model.sent(round(25_000, 30), true);
    const { prediction, predictionRange } = model.forecast({ dirtyPages: 25_000, deviceBytes: 0 });
    expect(prediction.ramMs).toBeGreaterThan(25);
    expect(prediction.ramMs).toBeLessThan(40);
    expect(predictionRange.ramMs[0]).toBeLessThan(30);
    expect(predictionRange.ramMs[1]).toBeGreaterThan(30);
  });

  test('on a thread that wakes late, a pause is expected to help a fast link, and not a slow one', () => {
    const expected = (bytesPerSecond: number, lateMs: number): number => {
      const model = new DowntimeModel();
      const ms = (25_000 * 4096 * 1000) / bytesPerSecond;
      for (let i = 0; i < 4; i++) model.sent(round(25_000, ms));
      for (let i = 0; i < 5; i++) model.woke(lateMs);
      return model.forecast({ dirtyPages: 25_000, deviceBytes: 0 }).prediction.ramMs / ms;
    };
    expect(expected(1e9, 0)).toBeCloseTo(1, 1);
    expect(expected(1e9, 10)).toBeLessThan(0.5);
    expect(expected(1e8, 10)).toBeCloseTo(1, 1);
  });

  test('after a second round that loaded the link, what round 1 has said of it no longer counts', () => {
    const model = new DowntimeModel();
    model.sent(round(25_000, 400));
    model.sent(round(25_000, 100));
    expect(model.linkBytesPerSecond / 1.024e9).toBeCloseTo(1, 1);
    // A small one says little of a link.
    const other = new DowntimeModel();
    other.sent(round(25_000, 400));
    other.sent(round(100, 0.4));
    expect(other.linkBytesPerSecond / 0.256e9).toBeCloseTo(1, 1);
  });

  test('an encoding that is switched on in the middle counts from its first round on', () => {
    const model = new DowntimeModel();
    for (let i = 0; i < 4; i++) model.sent(round(10_000, 400));
    const delta = { raw: 0, zero: 0, hole: 0, delta: 10_000, compressed: 0 };
    model.sent(round(10_000, 10, { pages: delta, wireBytes: MIB, scanMs: 20, burstWallMs: 30 }));
    const { prediction, predictionRange } = model.forecast({ dirtyPages: 10_000, deviceBytes: 0 });
    expect(prediction.ramMs).toBeGreaterThan(15);
    expect(prediction.ramMs).toBeLessThan(60);
    expect(predictionRange.ramMs[0]).toBeLessThan(31);
    expect(predictionRange.ramMs[1]).toBeGreaterThan(31);
    // And switched off again.
    model.sent(round(10_000, 400));
    const off = model.forecast({ dirtyPages: 10_000, deviceBytes: 0 });
    expect(off.prediction.ramMs).toBeGreaterThan(200);
    expect(off.predictionRange.ramMs[1]).toBeGreaterThan(400);
  });

  test('over another number of channels, is uncertain until those have loaded the link', () => {
    const model = new DowntimeModel();
    model.roundTrip(0);
    model.channels = 4;
    for (let i = 0; i < 8; i++) model.sent(round(10_000, 400));
    const known = model.forecast({ dirtyPages: 10_000, deviceBytes: 0 });
    model.channels = 1;
    const unknown = model.forecast({ dirtyPages: 10_000, deviceBytes: 0 });
    // One stream carries a quarter, or the link is shared and it carries all.
    expect(unknown.predictionRange.ramMs[1]).toBeGreaterThan(1600);
    expect(unknown.predictionRange.ramMs[0]).toBeLessThan(400);
    for (let i = 0; i < 4; i++) model.sent(round(10_000, 1600));
    const again = model.forecast({ dirtyPages: 10_000, deviceBytes: 0 });
    expect(again.prediction.ramMs).toBeGreaterThan(1300);
    expect(width(again.predictionRange.ramMs)).toBeLessThan(width(unknown.predictionRange.ramMs));
    // Back on four of them: what they carried is remembered.
    model.channels = 4;
    expect(model.linkBytesPerSecond).toBeCloseTo((10_000 * 4096) / 0.4, -1);
    expect(known.prediction.ramMs).toBeCloseTo(400, 6);
  });

  test('while only a lower bound of the rate is known, may take next to nothing', () => {
    const model = new DowntimeModel();
    model.sent(round(10, 5));
    const [low, high] = model.forecast({ dirtyPages: 10_000, deviceBytes: 0 }).predictionRange.ramMs;
    expect(low).toBeLessThan(200);
    expect(high).toBeGreaterThan(500);
    // The time to look at pages is in the bound, and does not count twice.
    const scanning = new DowntimeModel();
    scanning.roundTrip(0);
    scanning.sent(round(10, 0, { scanMs: 10, burstMs: 0, burstWallMs: 10 }));
    expect(scanning.predict({ dirtyPages: 100, deviceBytes: 0 }).ramMs).toBeCloseTo(100, 6);
  });
});

describe('pages that are dirtied until the guest stands still', () => {
  test('come at the rate of the last round, and not where they are dirty already', () => {
    const growth = new PageGrowth();
    expect(growth.expected(10, 5)).toEqual({ ms: 0, lowMs: 0, highMs: 0 });
    growth.dirtied(10_000, 1000);
    growth.dirtied(2000, 200);
    // 10 pages/ms, for 1 ms until the pause and 9 ms of it; a fifth of the working set is dirty.
    expect(growth.expected(2000, 9)).toEqual({ ms: 80, lowMs: 0, highMs: 200 });
    expect(growth.expected(10_000, 9).ms).toBe(0);
  });

  test('as many as an attempt has found', () => {
    const growth = new PageGrowth();
    growth.dirtied(100, 1000);
    growth.burst(5000);
    expect(growth.expected(100, 1).ms).toBe(5000);
  });
});

describe('harvests', () => {
  test('while the guest runs, those that come count three times', () => {
    const model = new DowntimeModel();
    for (let i = 0; i < 4; i++) model.harvested(10);
    const { prediction, predictionRange } = model.forecast(NOTHING_PENDING);
    expect(prediction.harvestMs).toBe(30);
    expect(predictionRange.harvestMs[0]).toBeLessThan(10);
    expect(predictionRange.harvestMs[1]).toBeGreaterThan(45);
  });

  test('with the guest paused, those are learned by themselves', () => {
    const model = new DowntimeModel();
    for (let i = 0; i < 8; i++) model.harvested(10);
    for (let i = 0; i < 3; i++) model.harvested(2, true);
    const { prediction, predictionRange } = model.forecast(NOTHING_PENDING);
    expect(prediction.harvestMs).toBe(6);
    expect(predictionRange.harvestMs[1]).toBeLessThan(12);
  });
});

test('the sum falls below its point by a tenth more than its terms together, and never below all of them', () => {
  const model = new DowntimeModel({ pauseMs: 1, loadMs: 1 });
  const { prediction, predictionRange, predictedDowntimeMs, predictedDowntimeRangeMs } = model.forecast({
    ...NOTHING_PENDING,
    deviceBytes: 10 * MIB,
  });
  const terms = Object.entries(predictionRange).map(([name, [low]]) => [prediction[name as 'ramMs'], low] as const);
  const below = Math.hypot(...terms.map(([ms, low]) => ms - low));
  const least = terms.reduce((sum, [, low]) => sum + low, 0);
  expect(predictedDowntimeRangeMs[0]).toBeCloseTo(Math.max(least, predictedDowntimeMs - 1.1 * below), 6);
  model.rehearsed(400);
  const late = model.forecast(NOTHING_PENDING);
  const leastLate = Object.values(late.predictionRange).reduce((sum, [low]) => sum + low, 0);
  expect(late.predictedDowntimeRangeMs[0]).toBeGreaterThanOrEqual(leastLate);
});

describe('devices', () => {
  const devices = (count: number, change: Partial<engineParts.DowntimeModel['devices']> = {}) => ({
    ...{ count, bytes: 0, expectedSaveMs: 0, expecting: 0 },
    ...change,
  });

  test('each costs its time, however little state it has', () => {
    const model = new DowntimeModel();
    model.devices = devices(4000);
    const { prediction, predictionRange } = model.forecast({ dirtyPages: 0, deviceBytes: 400_000 });
    expect(prediction.deviceMs).toBeGreaterThan(200);
    expect(predictionRange.deviceMs[0]).toBeLessThan(150);
    expect(predictionRange.deviceMs[1]).toBeGreaterThan(900);
    expect(prediction.loadMs).toBeGreaterThan(30);
    model.devices = devices(4000, { callMs: guess(0.02, 0.015, 0.03) });
    expect(model.predict({ dirtyPages: 0, deviceBytes: 400_000 }).deviceMs).toBeLessThan(100);
  });

  test('what they say of themselves counts', () => {
    const model = new DowntimeModel();
    model.devices = devices(2, { expectedSaveMs: 700, expecting: 2 });
    const { prediction, predictionRange } = model.forecast(NOTHING_PENDING);
    expect(prediction.deviceMs).toBeGreaterThan(690);
    expect(prediction.deviceMs).toBeLessThan(710);
    expect(predictionRange.deviceMs[0]).toBeGreaterThan(300);
  });

  test('what the destination says of loading counts, by its bytes, and not once it was restarted', () => {
    const model = new DowntimeModel({ loadMs: 1 });
    model.devices = devices(1);
    model.destination(...destinationOutlook({ load: [3, 2, 4, 10, 8, 12], resume: [7, 6, 9] }));
    const { prediction, predictionRange } = model.forecast({ dirtyPages: 0, deviceBytes: 50 * MIB });
    // Besides what it says, it has to wake up.
    expect(prediction.loadMs).toBeCloseTo(503.8, 6);
    expect(prediction.resumeMs).toBe(7);
    expect(predictionRange.loadMs[0]).toBeGreaterThan(350);
    expect(predictionRange.resumeMs).toEqual([6, 9]);
    model.restarted();
    expect(model.predict(NOTHING_PENDING).loadMs).toBe(1);
    expect(model.predict(NOTHING_PENDING).resumeMs).toBe(1);
  });

  test('a destination that does not know, or says what cannot be, says nothing', () => {
    for (const frame of [{}, { load: [], resume: [] }, { load: Array(6).fill(1e300), resume: [1, 0, Number.NaN] }])
      expect(destinationOutlook(frame)).toEqual([undefined, undefined]);
  });
});

describe('terms of earlier attempts', () => {
  test('are expected again, within a factor of two', () => {
    const model = new DowntimeModel();
    model.measured('loadMs', 100);
    const { prediction, predictionRange } = model.forecast(NOTHING_PENDING);
    expect(prediction.loadMs).toBe(100);
    expect(predictionRange.loadMs).toEqual([50, 200]);
  });

  test('one that ran into the bound may end at once, or last; with time it is forgotten', async () => {
    const clock = new VirtualClock();
    const model = new DowntimeModel({}, 4096, clock);
    model.overran('deviceMs', 600);
    const { prediction, predictionRange } = model.forecast(NOTHING_PENDING);
    expect(prediction.deviceMs).toBe(600);
    expect(predictionRange.deviceMs[0]).toBe(0);
    expect(predictionRange.deviceMs[1]).toBe(1800);
    await clock.sleep(20_000);
    expect(model.predict(NOTHING_PENDING).deviceMs).toBeLessThan(10);
  });
});

test('an earlier migration counts where this one knows nothing, within a factor of three', () => {
  const prior = { pauseMs: 12, harvestMs: 9, loadMs: 21, resumeMs: 6, roundTripMs: 30 };
  const { prediction, predictionRange } = new DowntimeModel(prior).forecast(NOTHING_PENDING);
  expect(prediction).toMatchObject(prior);
  expect(predictionRange.resumeMs[0]).toBeCloseTo(2);
  expect(predictionRange.resumeMs[1]).toBeCloseTo(18);
  const model = new DowntimeModel(prior);
  model.rehearsed(1);
  model.harvested(1);
  model.roundTrip(2);
  expect(model.predict(NOTHING_PENDING)).toMatchObject({ pauseMs: 1, harvestMs: 3, roundTripMs: 5 });
});

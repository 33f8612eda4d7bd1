import {
  type ConvergencePolicy,
  defaultBudget,
  firstOpinion,
  limitRamp,
  localMinimum,
  type PolicyInput,
  presets,
  qemuAutoConverge,
  qemuPolicy,
  qemuRule,
  type RoundRecord,
  roundCap,
  stalled,
  strictlyWithinDowntimeLimit,
  throttleExhausted,
  throttleToConverge,
  timeBudget,
  unreachableLimit,
  vep248Rule,
  vep291Rule,
  withinDowntimeLimit,
  withinTimeBudget,
} from '@godwit/core';
import { describe, expect, test } from '@jest/globals';

const TERMS = { pauseMs: 10, harvestMs: 0, ramMs: 0, deviceMs: 0, loadMs: 0, roundTripMs: 2, resumeMs: 8 };

const NONE: readonly [number, number] = [0, 0];
const NO_RANGES = {
  pauseMs: NONE,
  harvestMs: NONE,
  ramMs: NONE,
  deviceMs: NONE,
  loadMs: NONE,
  roundTripMs: NONE,
  resumeMs: NONE,
};

/** A round of a link that carries 10,000 pages a second, with 20 ms of downtime beside RAM. */
function round(number: number, owed: number, change: Partial<RoundRecord> = {}): RoundRecord {
  const ramMs = owed / 10;
  return {
    round: number,
    phase: 'pre-copy',
    dirtyPages: 10_000,
    deferredPages: 0,
    deviceBytes: 0,
    pages: { raw: 10_000, zero: 0, hole: 0, delta: 0, compressed: 0 },
    rawBytes: 40_960_000,
    wireBytes: 40_960_000,
    savedBytes: 0,
    harvestMs: 1,
    scanMs: 0,
    sendMs: 1000,
    limitMs: 0,
    totalMs: 1000,
    endedAtMs: 0,
    linkBytesPerSecond: 40_960_000,
    newlyDirtyPages: owed,
    trackers: [],
    dirtyPagesPerSecond: owed,
    throttle: 0,
    predictedDowntimeMs: ramMs + 20,
    predictedDowntimeRangeMs: [ramMs + 20, ramMs + 20],
    prediction: { ...TERMS, ramMs },
    predictionRange: NO_RANGES,
    decision: { action: 'continue', reason: '' },
    ...change,
  };
}

/** What a policy is asked at the end of the last of these rounds, or in the middle of the next one, when `owedNow` is given. */
function asked(given: readonly RoundRecord[], change: Partial<PolicyInput> = {}, owedNow?: number): PolicyInput {
  const rounds = oneAfterTheOther(given);
  const last = rounds.at(-1) as RoundRecord;
  const { round: number, totalMs } = last;
  const now = owedNow === undefined ? last : { ...round(number, owedNow), totalMs };
  return {
    moment: owedNow === undefined ? 'round-end' : 'in-round',
    outcome: now,
    history: owedNow === undefined ? rounds.slice(0, -1) : rounds,
    downtimeLimitMs: 300,
    pauseLimitMs: 600,
    fixedDowntimeMs: 20,
    elapsedMs: last.endedAtMs,
    timeBudgetMs: undefined,
    throttle: 0,
    canThrottle: true,
    canPostcopy: false,
    bandwidthLimit: 0,
    pagesPerSecond: 10_000,
    pageSize: 4096,
    overruns: 0,
    unpreparedMs: 0,
    ...change,
  };
}

/** The same rounds, each of which begins when the one before has ended; where a round says when it ended, that stands. */
function oneAfterTheOther(rounds: readonly RoundRecord[]): readonly RoundRecord[] {
  let at = 0;
  return rounds.map((one) => {
    at = one.endedAtMs > 0 ? one.endedAtMs : at + one.totalMs;
    return { ...one, endedAtMs: at };
  });
}

/** Rounds that leave so many pages, one after the other. */
const rounds = (...owed: number[]) => owed.map((pages, index) => round(index + 1, pages));

describe('the limit', () => {
  test('with nothing dirty it is exceeded by withinDowntimeLimit, and by gentle it is not', () => {
    const input = asked(rounds(0), { downtimeLimitMs: 10 });
    expect(withinDowntimeLimit(input)).toMatchObject({ action: 'switchover' });
    expect(withinDowntimeLimit({ ...input, pauseLimitMs: 20 })).toMatchObject({ action: 'switchover' });
    expect(withinDowntimeLimit({ ...input, pauseLimitMs: 19 })).toBeUndefined();
    expect(presets.balanced(input)).toMatchObject({ action: 'switchover' });
    expect(strictlyWithinDowntimeLimit(input)).toBeUndefined();
    expect(presets.gentle(input)).toBeUndefined();
  });

  test('limitRamp: by round, by time, by the slower of both, and the attempt is told', () => {
    const limit = (policy: ConvergencePolicy, count: number): number => {
      const decision = policy(asked(rounds(...Array<number>(count).fill(0))));
      return decision?.action === 'switchover' ? (decision.downtimeLimitMs ?? 300) : Number.NaN;
    };
    const byRound = limitRamp({ firstMs: 100, lastMs: 500, rounds: 4 });
    expect([1, 2, 3, 5, 9].map((count) => limit(byRound, count))).toEqual([100, 200, 300, 500, 500]);
    const byTime = limitRamp({ firstMs: 100, lastMs: 500, ms: 8000, afterRound: 2 });
    expect([1, 2, 6, 10, 99].map((count) => limit(byTime, count))).toEqual([100, 100, 300, 500, 500]);
    const both = limitRamp({ firstMs: 100, lastMs: 500, ms: 8000, rounds: 4 });
    expect([5, 9].map((count) => limit(both, count))).toEqual([300, 500]);
    const inSteps = limitRamp({ firstMs: 100, lastMs: 500, ms: 8000, steps: 2 });
    expect([4, 5, 8, 9].map((count) => limit(inSteps, count))).toEqual([100, 300, 300, 500]);
    expect(limitRamp({ lastMs: 500 })(asked(rounds(4000)))).toMatchObject({ downtimeLimitMs: 500 });
    expect(limitRamp({ lastMs: 500 })(asked(rounds(4900)))).toBeUndefined();
  });

  test('vep291Rule: 150 ms until the third round has ended, then 150 more every 10 s up to 1,050', () => {
    const within = (owed: number, count: number) =>
      vep291Rule(asked([...rounds(...Array<number>(count - 1).fill(20_000)), round(count, owed)])) !== undefined;
    expect([within(1290, 3), within(1310, 3), within(1310, 12), within(1310, 13)]).toEqual([true, false, false, true]);
    expect([within(10_290, 62), within(10_290, 63), within(10_310, 999)]).toEqual([false, true, false]);
  });

  test('unreachableLimit ends patience when no round could have reached the limit for so long', () => {
    const policy = unreachableLimit(3000, 'abort');
    const change = { downtimeLimitMs: 15 };
    expect(policy(asked(rounds(9, 9, 9), change))).toBeUndefined();
    expect(policy(asked(rounds(9, 9, 9, 9), change))).toMatchObject({
      action: 'abort',
      reason: expect.stringContaining('without any RAM the guest would be down for 20.0 ms'),
    });
    expect(policy(asked(rounds(9, 9, 9, 9)))).toBeUndefined();
    // The rounds of an idle guest take no time, and are up to a second apart.
    const quiet = [100, 1100, 2100, 3100].map((endedAtMs, i) => round(i + 1, 9, { totalMs: 1, endedAtMs }));
    expect(policy(asked(quiet, change))).toMatchObject({ action: 'abort' });
    expect(policy(asked(quiet.slice(0, 3), change))).toBeUndefined();
    const better = round(3, 9, { predictedDowntimeMs: 10, prediction: { ...TERMS, ramMs: 1 } });
    expect(policy(asked([...rounds(9, 9), better, ...rounds(9, 9)], change))).toBeUndefined();
  });
});

describe('the end of patience', () => {
  const ENDS = [
    ['abort', false, { action: 'abort' }],
    ['force', false, { action: 'switchover', force: true }],
    ['switchover', true, { action: 'switchover', force: true }],
    ['postcopy-or-abort', false, { action: 'abort' }],
    ['postcopy-or-abort', true, { action: 'postcopy' }],
    ['postcopy-or-force', false, { action: 'switchover', force: true }],
    ['postcopy-or-force', true, { action: 'postcopy' }],
  ] as const;

  test.each(ENDS)('%s, where post-copy is possible: %s', (end, canPostcopy, decision) => {
    const input = asked(rounds(5000, 5000), { canPostcopy });
    for (const policy of [roundCap(2, end), timeBudget(2000, end), withinTimeBudget(end)]) {
      expect(policy({ ...input, timeBudgetMs: 2000 })).toMatchObject(decision);
      expect(policy({ ...input, elapsedMs: 0, outcome: { ...input.outcome, round: 1 } })).toBeUndefined();
      expect(policy({ ...input, elapsedMs: 0, overruns: 3 })).toMatchObject(decision);
    }
  });

  test('a force begins early by the downtime that is predicted, but by no more than a quarter; an abort does not', () => {
    const at = (elapsedMs: number, owed: number) => asked([round(1, owed)], { elapsedMs, timeBudgetMs: 10_000 });
    expect(withinTimeBudget('force')(at(8970, 10_000))).toBeUndefined();
    expect(withinTimeBudget('force')(at(8980, 10_000))).toMatchObject({ force: true });
    expect(withinTimeBudget('force')(at(7499, 90_000))).toBeUndefined();
    expect(withinTimeBudget('force')(at(7500, 90_000))).toMatchObject({ force: true });
    expect(withinTimeBudget('abort')(at(9999, 90_000))).toBeUndefined();
    expect(withinTimeBudget('abort')(at(10_000, 90_000))).toMatchObject({ action: 'abort' });
  });

  test('the default budget: none in the first round, then multiples of it, and after 1,000 rounds the least', () => {
    const budget = defaultBudget({ leastMs: 60_000, firstRounds: 10 });
    expect(budget({ ...asked([round(1, 9)]), moment: 'in-round', history: [] }).ms).toBeUndefined();
    expect(budget(asked([round(1, 9, { totalMs: 2000 })])).ms).toBe(60_000);
    expect(budget(asked([round(1, 9, { totalMs: 9000 }), round(2, 9)])).ms).toBe(90_000);
    expect(budget(asked([round(2, 9, { totalMs: 9000 })])).ms).toBe(60_000);
    expect(presets.gentle(asked([round(1, 9000), round(2, 9000)], { elapsedMs: 60_000 }))?.reason).toMatch(
      /time budget of 60000 ms is used up \(the least of the default; timeBudgetMs sets another\)/,
    );
  });

  test('the reason names a destination that is not prepared', () => {
    const input = asked(rounds(0), { elapsedMs: 10_000, timeBudgetMs: 10_000, unpreparedMs: 9000 });
    expect(presets.balanced(input)?.reason).toMatch(/the destination has not been prepared for 9000 ms/);
  });
});

describe('stalls', () => {
  test('progress is what lowers the least that was owed', () => {
    const policy = stalled({ rounds: 3 }, 'abort');
    expect(policy(asked(rounds(9000, 8000, 8500, 9000)))).toBeUndefined();
    expect(policy(asked(rounds(9000, 8000, 8500, 9000, 7900)))).toMatchObject({ action: 'abort' });
    expect(policy(asked(rounds(9000, 8000, 8500, 9000, 7000)))).toBeUndefined();
    // A hundredth at a time is progress in the end.
    expect(policy(asked(rounds(10_000, 9900, 9800, 9700, 9600, 9500)))).toBeUndefined();
    expect(stalled({ rounds: 3, leastMs: 3001 }, 'abort')(asked(rounds(8000, 8000, 8000, 8000)))).toBeUndefined();
    expect(policy(asked(rounds(8000, 8000, 8000, 8000), {}, 8000))).toBeUndefined();
  });

  test('what an attempt has sent with the guest paused is no round', () => {
    const paused = round(3, 0, { phase: 'stop-and-copy' });
    const all = [...rounds(8000, 8000), paused, round(4, 8000)];
    expect(stalled({ rounds: 3 }, 'abort')(asked(all))).toBeUndefined();
    expect(stalled({ rounds: 2 }, 'abort')(asked(all))).toMatchObject({ action: 'abort' });
  });

  test('localMinimum: only once stalled, only at a minimum, within its limit, in the middle of a round too', () => {
    const policy = localMinimum({ rounds: 3, upToMs: 900 });
    const before = [9000, 8000, 9500, 8500];
    expect(policy(asked(rounds(...before)))).toBeUndefined();
    expect(policy(asked(rounds(...before, 9000)))).toBeUndefined();
    expect(policy(asked(rounds(...before, 9000, 8300)))).toMatchObject({ action: 'switchover', downtimeLimitMs: 900 });
    expect(policy(asked(rounds(...before, 9000, 8400)))).toBeUndefined();
    expect(localMinimum({ rounds: 3, upToMs: 800 })(asked(rounds(...before, 9000, 8000)))).toBeUndefined();
    expect(policy(asked(rounds(...before, 9000), {}, 7900))).toBeUndefined();
    expect(policy(asked(rounds(...before, 9000), {}, 7600))).toMatchObject({ action: 'switchover' });
    expect(policy(asked(rounds(9000, 8000), {}, 100))).toBeUndefined();
    expect(policy(asked(rounds(...before, 9000, 8000), { overruns: 3 }))).toBeUndefined();
  });

  test('vep248Rule: after 40 s without progress, at the best that was seen since, and relaxed with patience', () => {
    const flat = (count: number, owed = 8000) => Array<number>(count).fill(owed);
    expect(vep248Rule()(asked(rounds(...flat(40))))).toBeUndefined();
    expect(vep248Rule()(asked(rounds(...flat(41))))).toMatchObject({ action: 'switchover', downtimeLimitMs: 900 });
    expect(vep248Rule()(asked(rounds(...flat(41)), { canPostcopy: true }))).toMatchObject({ action: 'postcopy' });
    // The best is waited for; after 40 s of patience the next larger is good enough.
    const shifted = [...flat(41, 7000), ...flat(38, 8000)];
    expect(vep248Rule()(asked(rounds(...shifted)))).toBeUndefined();
    expect(vep248Rule()(asked(rounds(...shifted, 8000, 8000, 8000)))).toMatchObject({ action: 'switchover' });
    expect(vep248Rule()(asked(rounds(...flat(41, 12_000))))).toBeUndefined();
    expect(vep248Rule()(asked(rounds(...flat(41, 14_000))))).toMatchObject({ action: 'abort' });
  });
});

describe('the throttle', () => {
  const fast = (number: number, change: Partial<RoundRecord> = {}) =>
    round(number, 6000, { dirtyPages: 20_000, totalMs: 2000, dirtyPagesPerSecond: 20_000, ...change });

  test('half the speed for a guest that writes twice as fast as the link carries, and not by a burst', () => {
    const policy = throttleToConverge();
    const decision = policy(asked([fast(1), fast(2)]));
    expect(decision).toMatchObject({ action: 'throttle' });
    expect(decision).toMatchObject({ fraction: expect.closeTo(0.55, 1) });
    expect(policy(asked([fast(1)]))).toBeUndefined();
    expect(policy(asked([round(1, 6000), fast(2)]))).toBeUndefined();
    expect(throttleToConverge({ rounds: 1 })(asked([fast(1)]))).toMatchObject({ action: 'throttle' });
  });

  test('is asked for only at the end of a round, of a VM that can, over a link that is known', () => {
    const policy = throttleToConverge();
    const all = [fast(1), fast(2)];
    expect(policy(asked(all, {}, 6000))).toBeUndefined();
    for (const change of [
      { canThrottle: false },
      { pagesPerSecond: undefined },
      { downtimeLimitMs: 20 },
      { overruns: 3 },
    ]) {
      expect(policy(asked(all, change))).toBeUndefined();
    }
  });

  test('a shorter time asks for more, and one that nothing helps for none', () => {
    const policy = throttleToConverge();
    const at = (timeBudgetMs: number) => {
      const decision = policy(asked([fast(1), fast(2)], { timeBudgetMs }));
      return decision?.action === 'throttle' ? decision.fraction : 0;
    };
    expect(at(5500)).toBeGreaterThan(at(60_000));
    expect(at(4400)).toBe(0);
  });

  test('is lowered when all the last rounds leave room, and stays where one does not', () => {
    const policy = throttleToConverge();
    const calm = (number: number) =>
      round(number, 5000, { dirtyPagesPerSecond: 4000, throttle: 0.5, dirtyPages: 10_000 });
    expect(policy(asked([calm(1), calm(2), calm(3)], { throttle: 0.5 }))).toMatchObject({
      action: 'throttle',
      fraction: 0,
    });
    const busy = { ...calm(2), dirtyPagesPerSecond: 10_000 };
    expect(policy(asked([calm(1), busy, calm(3)], { throttle: 0.5 }))).toBeUndefined();
  });

  test('goes up by steps, round by round, while the working set is written whole, however long a round takes', () => {
    const whole = (number: number, throttle: number, totalMs = 1010) =>
      round(number, 10_000, { totalMs, throttle, dirtyPagesPerSecond: (10_000 / totalMs) * 1000 });
    const policy = throttleToConverge();
    const at = (throttle: number, totalMs?: number) =>
      policy(
        asked(
          [1, 2, 3].map((number) => whole(number, number === 3 ? throttle : 0, totalMs)),
          { throttle },
        ),
      );
    expect(at(0.1)).toMatchObject({ action: 'throttle', fraction: 0.16 });
    // Half a second of each round went to what nobody has told of.
    expect(at(0.1, 1500)).toMatchObject({ action: 'throttle', fraction: 0.16 });
  });

  test('throttleExhausted counts only rounds in which the guest was held back so far', () => {
    const policy = throttleExhausted(0.8, { rounds: 3, leastMs: 3000 }, 'abort');
    const held = [2, 3, 4, 5].map((number) => round(number, 9000, { throttle: 0.8 }));
    expect(policy(asked([...rounds(9000), ...held], { throttle: 0.8 }))).toMatchObject({ action: 'abort' });
    expect(policy(asked([...rounds(9000, 9000, 9000, 9000), ...held.slice(1)], { throttle: 0.8 }))).toBeUndefined();
    expect(policy(asked(held, { throttle: 0.5 }))).toBeUndefined();
  });
});

describe("QEMU's rule", () => {
  test('raw bytes that are pending, and the wire bytes of the last round', () => {
    const limit = { downtimeLimitMs: 300 };
    expect(qemuRule(asked(rounds(3000), limit))).toMatchObject({ action: 'switchover' });
    expect(qemuRule(asked(rounds(3001), limit))).toBeUndefined();
    // Delta encoding makes it believe that the link is slow.
    expect(qemuRule(asked([round(1, 3000, { wireBytes: 4_096_000 })], limit))).toBeUndefined();
    expect(qemuRule(asked(rounds(9000), limit, 2000))).toMatchObject({ action: 'switchover' });
    expect(qemuRule({ ...asked([round(1, 0, { totalMs: 0 })]) })).toBeUndefined();
  });

  test('auto-converge: after two bad periods 20 %, after two more 30 %, and never less', () => {
    const policy = qemuAutoConverge();
    const bad = (count: number) => Array.from({ length: count }, (_, i) => round(i + 1, 6000, { totalMs: 1001 }));
    const fraction = (count: number, throttle = 0) => {
      const decision = policy(asked(bad(count), { throttle }));
      return decision?.action === 'throttle' ? decision.fraction : undefined;
    };
    expect([2, 3, 4, 5, 7].map((count) => fraction(count))).toEqual([undefined, 0.2, 0.2, 0.3, 0.4]);
    expect(fraction(5, 0.3)).toBeUndefined();
    expect(fraction(60)).toBe(0.99);
    const good = rounds(4000, 4000, 4000, 4000).map((one) => ({ ...one, totalMs: 1001 }));
    expect(policy(asked([...bad(3), ...good], { throttle: 0.2 }))).toBeUndefined();
    expect(policy(asked(bad(9), { canThrottle: false }))).toBeUndefined();
    expect(qemuPolicy({ autoConverge: true })(asked(bad(3)))).toMatchObject({ fraction: 0.2 });
    expect(qemuPolicy()(asked(bad(3)))).toBeUndefined();
  });
});

test('combined policies decide in their order', () => {
  const input = asked(rounds(1000, 1000), { elapsedMs: 9000, timeBudgetMs: 9000 });
  expect(firstOpinion(withinTimeBudget('abort'), withinDowntimeLimit)(input)).toMatchObject({ action: 'abort' });
  expect(firstOpinion(withinDowntimeLimit, withinTimeBudget('abort'))(input)).toMatchObject({ action: 'switchover' });
});

test.each([
  ['limitRamp', () => limitRamp({ lastMs: -1 }), /limitRamp: lastMs must be a number of at least 0, got -1/],
  ['throttleToConverge', () => throttleToConverge({ most: 1 }), /most must be a number from 0 to 0.99, got 1/],
  ['timeBudget', () => timeBudget(Number.NaN, 'abort'), /timeBudget: ms must be a number .* got NaN/],
  ['roundCap', () => roundCap(3, 'stop' as 'abort'), /the end of patience is one of "abort", "force", .* got "stop"/],
  ['stalled', () => stalled({ rounds: 0 }, 'abort'), /stalled: rounds must be a number of at least 1, got 0/],
])('%s refuses what it cannot mean', (_, make, message) => {
  expect(make).toThrow(
    expect.objectContaining({ code: 'GODWIT_INVALID_ARGUMENT', message: expect.stringMatching(message) }),
  );
});

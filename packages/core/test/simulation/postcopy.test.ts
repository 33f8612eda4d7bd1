import { type RunOptions, type Scenario, simulate } from '@godwit/core/simulation';
import { describe, expect, test } from '@jest/globals';

const GIB = 2 ** 30;
const LINK = 1.25e9;
const LATENCY_MS = 0.2;

/** A guest that writes faster than the link carries, in half of its memory. */
const BUSY: Scenario = {
  memory: { bytes: GIB },
  workload: { kind: 'uniform', rate: 2e9, bytes: GIB / 2 },
  link: { bytesPerSecond: LINK, latencyMs: LATENCY_MS },
};

const COARSE = { granularity: 2 ** 16 };

const run = async (scenario: Partial<Scenario> = {}, options: RunOptions = {}) =>
  simulate({ ...BUSY, ...scenario }, { policy: 'hybrid', postcopy: true, suggestions: false, ...options });

/** The guest as it is, simulated once for all tests. */
let simulated: ReturnType<typeof run> | undefined;
const plain = () => {
  simulated ??= run();
  return simulated;
};

describe('post-copy', () => {
  test('moves a guest that never converges, with what it wrote during one round still to come', async () => {
    const { outcome, downtimeMs, totalMs, rounds, postcopy, summary, pageSize } = await plain();
    expect(outcome).toBe('converged');
    expect(downtimeMs).toBeLessThan(20);
    expect(rounds.map(({ decision }) => decision.action)).toEqual(['postcopy']);
    expect(postcopy?.bytes).toBe((summary?.postcopy?.pages ?? 0) * pageSize);
    // What it has written in the 0.86 s of the first round, at random: S (1 - exp(-w T / S)).
    const written = (GIB / 2) * (1 - Math.exp((-2e9 * (GIB / LINK)) / (GIB / 2)));
    expect((postcopy?.bytes ?? 0) / written).toBeCloseTo(1, 1);
    // All of it comes over the link, and nothing twice but what was under way when somebody asked for it.
    expect(postcopy?.ms).toBeGreaterThan(((postcopy?.bytes ?? 0) / LINK) * 1000);
    expect(postcopy?.ms).toBeLessThan(((postcopy?.bytes ?? 0) / LINK) * 1000 * 1.2);
    expect((postcopy?.fromMs ?? 0) + (postcopy?.ms ?? 0)).toBeCloseTo(totalMs, 0);
  });

  test('the pause ends where the guest runs at the destination, and what is owed then goes down to nothing', async () => {
    const { pauses, owed, postcopy, downtimeMs, totalMs } = await plain();
    const { fromMs = 0, bytes } = postcopy ?? {};
    expect(pauses).toEqual([{ fromMs: expect.any(Number), toMs: fromMs, wentBack: false }]);
    expect(fromMs - (pauses[0]?.fromMs ?? 0)).toBeCloseTo(downtimeMs ?? 0, -1);
    expect(owed.at(-2)).toEqual({ ms: fromMs, bytes });
    expect(owed.at(-1)?.bytes).toBe(0);
    expect(owed.at(-1)?.ms).toBeCloseTo(totalMs, 0);
  });

  test('a fault takes a round trip, and the guest stands meanwhile', async () => {
    const { postcopy } = await plain();
    const { faults = 0, blockedMs = 0, ms = 0 } = postcopy ?? {};
    expect(faults).toBeGreaterThan(100);
    // There and back, 4 KiB on the wire, and 0.05 ms at the destination. Some pages are on their way already.
    expect(blockedMs / faults).toBeLessThan(2 * LATENCY_MS + 0.1);
    expect(blockedMs / faults).toBeGreaterThan(LATENCY_MS);
    expect(blockedMs).toBeLessThan(ms);
  });

  test('the same seed gives the same result, another one another', async () => {
    const [one, two, other] = await Promise.all([run({}, COARSE), run({}, COARSE), run({}, { ...COARSE, seed: 2 })]);
    expect(JSON.stringify(two)).toBe(JSON.stringify(one));
    expect(JSON.stringify(other)).not.toBe(JSON.stringify(one));
  });

  test('coarser pages give the same answer', async () => {
    const [fine, coarse] = await Promise.all([plain(), run({}, COARSE)]);
    expect((coarse?.postcopy?.ms ?? 0) / (fine?.postcopy?.ms ?? 0)).toBeCloseTo(1, 1);
    expect((coarse?.postcopy?.blockedMs ?? 0) / (fine?.postcopy?.blockedMs ?? 0)).toBeCloseTo(1, 0.5);
  });

  test('a guest that goes through its memory in order finds most pages there', async () => {
    const { postcopy } = await run({ workload: { kind: 'sweep', rate: 2e9, bytes: GIB / 2 } });
    expect((postcopy?.faults ?? 0) * 8).toBeLessThan((postcopy?.bytes ?? 0) / 4096);
  });

  test('goes on after a cut of the link: who waits for a page goes on waiting', async () => {
    const before = await plain();
    const atMs = Math.round((before.postcopy?.fromMs ?? 0) + 100);
    const { outcome, summary, postcopy } = await run({ link: { ...BUSY.link, cuts: [{ atMs, lastMs: 400 }] } });
    expect(outcome).toBe('converged');
    expect(summary?.postcopy?.lostLinks).toBe(1);
    expect(postcopy?.blockedMs).toBeGreaterThan((before.postcopy?.blockedMs ?? 0) + 350);
  });

  test('a link that stays cut leaves the guest waiting, and the simulation ends all the same', async () => {
    const before = await plain();
    const cuts = [{ atMs: Math.round((before.postcopy?.fromMs ?? 0) + 100), lastMs: 1e9 }];
    const { outcome, postcopy } = await run({ link: { ...BUSY.link, cuts } }, { stopAfterMs: 20_000 });
    expect(outcome).toBe('stopped');
    expect(postcopy?.bytes).toBe(before.postcopy?.bytes);
    expect(postcopy?.ms).toBeGreaterThan(15_000);
  });

  test('pages that nobody waits for come within their bandwidth limit', async () => {
    const options = { postcopyBandwidth: LINK / 4, downtimeLimitMs: 50 };
    const { postcopy } = await run({ workload: { kind: 'uniform', rate: 2e8 } }, options);
    expect(postcopy?.ms).toBeGreaterThan((((postcopy?.bytes ?? 0) / LINK) * 4000) / 2);
  });

  test('pages that come again are sent whole, whatever deltas save before', async () => {
    const { summary } = await run({ encoding: { deltaShare: 1 } });
    expect(summary?.pages.delta).toBe(0);
  });

  test('other policies use it at their end', async () => {
    const options = { timeBudgetMs: 3000, policy: 'balanced', downtimeLimitMs: 100, ...COARSE } as const;
    const [without, by] = await Promise.all([
      run({ canThrottle: false }, { ...options, postcopy: false }),
      run({ canThrottle: false }, options),
    ]);
    expect([without.outcome, without.postcopy]).toEqual(['failed', undefined]);
    expect(by.outcome).toBe('converged');
    expect(by.postcopy?.fromMs).toBeLessThan(3100);
  });

  test('hybrid is refused without it', async () => {
    await expect(run({}, { postcopy: false })).rejects.toMatchObject({ code: 'GODWIT_INVALID_ARGUMENT' });
  });
});

import { getEventListeners } from 'node:events';
import { type ConvergencePolicy, type Decision, GodwitError, type PolicyInput, type RoundRecord } from '@godwit/core';
import { engineParts, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';

const { Attempts, Readiness, Switchover } = engineParts;
type Context = ConstructorParameters<typeof Switchover>[0];

const INCARNATION = '1'.repeat(32);
const OUTCOME = {
  round: 1,
  predictedDowntimeMs: 1234.56,
  prediction: { pauseMs: 1, harvestMs: 2, ramMs: 1200, deviceMs: 3, loadMs: 4, roundTripMs: 5, resumeMs: 6 },
  totalMs: 100,
  dirtyPagesPerSecond: 500,
} as RoundRecord;
const NOW: Decision = { action: 'switchover', reason: 'it is time' };
const FORCED: Decision = { ...NOW, force: true };
const NO_OPINION: ConvergencePolicy = () => undefined;

/** What `Switchover` sees of a migration. */
function migration(
  policy: ConvergencePolicy,
  options: { readonly force?: boolean; readonly readinessTimeoutMs?: number } = {},
) {
  const clock = new VirtualClock();
  const readiness = new Readiness(clock);
  const attempts = new Attempts(clock);
  const end = new AbortController();
  const asked: number[] = [];
  const emitted: { readonly type: string }[] = [];
  const wish = {
    switchover: undefined as { readonly force: boolean } | undefined,
    taken: 0,
    wake: () => {},
  };
  const connection = {
    signal: new AbortController().signal,
    write: async (frame: { readonly attempt: number }) => void asked.push(frame.attempt),
  };
  const vm = {
    slowerBySeconds: 0,
    alive: true,
    settled: true,
    rehearsed: true,
    blocker: undefined as string | undefined,
    sequences: [0],
  };
  const session = { signal: end.signal, attempt: 1, current: connection as typeof connection | undefined };
  const context = {
    records: [] as RoundRecord[],
    session,
    readiness,
    attempts,
    meter: { elapsedMs: 77, round: 1 },
    vm: { memory: { pageSize: 4096 } },
    model: {
      pagesPerSecond: () => undefined,
      /** A prediction after the destination has answered: other than that of the round. */
      forecast: ({ dirtyPages }: { readonly dirtyPages: number }) => ({
        prediction: { ...OUTCOME.prediction, ramMs: dirtyPages, loadMs: 4 + 1000 * vm.slowerBySeconds },
        predictionRange: OUTCOME.predictionRange,
        predictedDowntimeMs: OUTCOME.predictedDowntimeMs + 1000 * vm.slowerBySeconds,
        predictedDowntimeRangeMs: OUTCOME.predictedDowntimeRangeMs,
      }),
    },
    harvester: { sinceMs: 40 },
    throttle: { fraction: 0, available: false, unavailable: 'it cannot' },
    shadows: { ask: () => {} },
    reach: { check: () => {} },
    requests: {
      get switchover() {
        return wish.switchover;
      },
      taken: () => wish.taken++,
      asked: () =>
        new Promise<void>((resolve) => {
          wish.wake = resolve;
        }),
    },
    guest: {
      checkAlive: () => {
        if (!vm.alive) throw new GodwitError('GODWIT_GUEST_ENDED', 'it has ended');
      },
      get settled() {
        return vm.settled;
      },
    },
    rehearsal: { stop: async () => vm.rehearsed },
    devices: {
      reports: { outlook: { bytes: 0 } },
      get sequences() {
        return vm.sequences;
      },
      switchoverBlocker: async () => vm.blocker,
    },
    options: { clock, policy, downtimeLimitMs: 300, readinessTimeoutMs: 10_000, force: false, ...options },
    emit: (event: { readonly type: string }) => emitted.push(event),
  };
  const answer = () =>
    readiness.answered(
      { type: 'prepared', incarnation: INCARNATION, attempt: session.attempt, deviceSequences: [...vm.sequences] },
      INCARNATION,
    );
  const fail = (
    times: number,
    code: 'GODWIT_SWITCHOVER_OVERRAN' | 'GODWIT_LINK_LOST' = 'GODWIT_SWITCHOVER_OVERRAN',
  ) => {
    for (let more = 0; more < times; more++) {
      const attempt = attempts.failed.length + 1;
      attempts.wentBack({
        attempt,
        term: 'loadMs',
        pausedMs: 500,
        reason: new GodwitError(code, `overrun ${attempt}`),
      });
    }
  };
  const made = () => {
    const switchover = new Switchover(context as unknown as Context);
    return {
      after: async (outcome: RoundRecord) => (await switchover.after(outcome, 500)).decision,
      judged: (outcome: RoundRecord) => switchover.after(outcome, 500),
      untilNext: (next: RoundRecord) => switchover.untilNext(next),
      get offersDevices() {
        return switchover.offersDevices;
      },
    };
  };
  return { clock, context, vm, session, attempts, readiness, end, asked, emitted, wish, answer, fail, made };
}

const record = (decision: Decision, totalMs = 0): RoundRecord => ({ ...OUTCOME, totalMs, decision });
const CONTINUE: Decision = { action: 'continue', reason: 'on' };

describe('what the policy is asked, and what comes of its answer', () => {
  test('it sees the round, what came before it, and how it goes', async () => {
    const inputs: PolicyInput[] = [];
    const m = migration((input) => {
      inputs.push({ ...input, history: [...input.history] });
      return undefined;
    });
    const before = record(CONTINUE);
    m.context.records.push(before);
    m.fail(2);
    m.fail(1, 'GODWIT_LINK_LOST');
    const switchover = m.made();
    await m.clock.sleep(40);
    const decision = await switchover.after(OUTCOME);
    expect(decision).toEqual({
      action: 'continue',
      reason: 'predicted downtime 1234.6 ms exceeds the limit of 300 ms',
    });
    const next = record(decision, 100);
    await switchover.untilNext(next);
    m.answer();
    await switchover.after(OUTCOME);
    // The migration's records are for others to keep.
    expect(m.context.records).toEqual([before]);
    const same = {
      moment: 'round-end',
      outcome: OUTCOME,
      downtimeLimitMs: 300,
      fixedDowntimeMs: 21,
      elapsedMs: 77,
      overruns: 2,
    };
    expect(inputs).toMatchObject([
      { ...same, history: [before], unpreparedMs: 40 },
      { ...same, history: [before, next], unpreparedMs: 0 },
    ]);
  });

  test('of the history it sees the last 1,000 rounds', async () => {
    let seen: readonly RoundRecord[] = [];
    const m = migration(({ history }) => {
      seen = history;
      return undefined;
    });
    const switchover = m.made();
    for (let round = 1; round <= 1002; round++) await switchover.untilNext({ ...record(CONTINUE, 10), round });
    await switchover.after(OUTCOME);
    expect([seen.length, seen[0]?.round, seen.at(-1)?.round]).toEqual([1000, 3, 1002]);
  });

  test('without an opinion the third overrun ends it, with the last reason; a link that was lost counts for nothing', async () => {
    const m = migration(NO_OPINION);
    m.fail(2);
    m.fail(5, 'GODWIT_LINK_LOST');
    expect((await m.made().after(OUTCOME)).action).toBe('continue');
    m.fail(1);
    expect(await m.made().after(OUTCOME)).toEqual({
      action: 'abort',
      reason:
        '3 switchovers were given up, the last one since overrun 8; raise downtimeLimitMs (300 ms) or pauseLimitMs, or use `force`',
    });
  });

  test('an abort is taken at once, whatever a switchover would wait for', async () => {
    const abort: Decision = { action: 'abort', reason: 'enough' };
    const m = migration(() => abort);
    m.vm.settled = false;
    expect(await m.made().after(OUTCOME)).toBe(abort);
    expect(m.clock.now()).toBe(0);
  });

  test('nothing is decided for a migration that has ended, or a guest that has', async () => {
    const m = migration(() => NOW);
    const switchover = m.made();
    m.vm.alive = false;
    await expect(switchover.after(OUTCOME)).rejects.toMatchObject({ code: 'GODWIT_GUEST_ENDED' });
    const reason = new GodwitError('GODWIT_CANCELLED', 'enough');
    m.end.abort(reason);
    await expect(switchover.after(OUTCOME)).rejects.toBe(reason);
  });
});

describe('a switchover waits', () => {
  const waits = (why: string) => ({ action: 'continue', reason: `it is time; it waits: ${why}` });

  test('for pause() to return, then for a device, then for the back-off, then for the destination', async () => {
    const m = migration(() => NOW);
    const switchover = m.made();
    m.fail(1);
    m.vm.settled = false;
    m.vm.blocker = 'device "gpu": 3 MiB are left';
    expect(await switchover.after(OUTCOME)).toEqual(waits('pause() has not returned'));
    m.vm.settled = true;
    expect(await switchover.after(OUTCOME)).toEqual(waits('device "gpu": 3 MiB are left'));
    m.vm.blocker = undefined;
    expect(await switchover.after(OUTCOME)).toEqual(waits('500 ms until another attempt'));
    await m.clock.sleep(499);
    expect(await switchover.after(OUTCOME)).toEqual(waits('1 ms until another attempt'));
    await m.clock.sleep(1);
    expect(switchover.offersDevices).toBe(true);
    expect(await switchover.after(OUTCOME)).toEqual(waits('the destination has not said "prepared" for 600 ms'));
    // While the destination is to catch up, devices yield nothing new.
    expect(switchover.offersDevices).toBe(false);
    expect(m.wish.taken).toBe(0);
    m.answer();
    expect(await switchover.after(OUTCOME)).toBe(NOW);
    expect([switchover.offersDevices, m.wish.taken]).toEqual([true, 1]);
  });

  test('with force for no back-off, and with what was asked for neither', async () => {
    const forced = migration(() => FORCED);
    forced.fail(1);
    forced.answer();
    expect(await forced.made().after(OUTCOME)).toMatchObject(
      waits('the destination has not said "prepared" for 100 ms'),
    );
    const asked = migration(NO_OPINION);
    asked.fail(1);
    asked.wish.switchover = { force: false };
    const why = 'switchOver() was called; it waits: the destination has not said "prepared" for 100 ms';
    expect((await asked.made().after(OUTCOME)).reason).toBe(why);
  });

  test.each([
    ['the option', () => migration(() => NOW, { force: true }), NOW],
    [
      'switchOver()',
      () => {
        const m = migration(NO_OPINION);
        m.wish.switchover = { force: true };
        return m;
      },
      { ...FORCED, reason: 'switchOver() was called' },
    ],
  ])('not for the destination with force by %s, but for pause() and devices', async (_, make, decision) => {
    const m = make();
    m.vm.blocker = 'not yet';
    expect((await m.made().after(OUTCOME)).reason).toContain('it waits: not yet');
    m.vm.blocker = undefined;
    m.vm.settled = false;
    expect((await m.made().after(OUTCOME)).reason).toContain('it waits: pause() has not returned');
    m.vm.settled = true;
    expect(await m.made().after(OUTCOME)).toEqual(decision);
    expect([m.clock.now(), m.wish.taken]).toEqual([0, 1]);
  });

  test('for an answer that comes within 100 ms no round longer', async () => {
    const m = migration(() => NOW);
    void m.clock.sleep(60).then(m.answer);
    expect(await m.made().after(OUTCOME)).toBe(NOW);
    expect([m.clock.now(), m.clock.sleepers, m.emitted]).toEqual([60, 0, []]);
  });

  test('for an answer that comes meanwhile, and is then decided again, with what the destination has said', async () => {
    const seen: number[] = [];
    const m = migration(({ outcome }) => {
      seen.push(outcome.prediction.loadMs);
      return outcome.predictedDowntimeMs < 1500 ? NOW : undefined;
    });
    m.vm.slowerBySeconds = 5;
    void m.clock.sleep(60).then(m.answer);
    const switchover = m.made();
    const judged = await switchover.judged(OUTCOME);
    expect(judged.decision).toEqual({
      action: 'continue',
      reason: 'predicted downtime 6234.6 ms exceeds the limit of 300 ms',
    });
    expect(judged.outcome).toMatchObject({ round: 1, prediction: { ramMs: 520, loadMs: 5004 } });
    expect(judged.outcome.predictedDowntimeMs).toBeCloseTo(6234.56, 6);
    expect([seen, m.wish.taken]).toEqual([[4, 5004], 0]);
    // The next round has the answer from the start.
    const later = await switchover.judged({ ...OUTCOME, predictedDowntimeMs: 1000 });
    expect([later.decision, later.outcome.predictedDowntimeMs, seen.length]).toEqual([NOW, 1000, 3]);
  });

  test('for the destination beyond readinessTimeoutMs: that is said once, and so is its end', async () => {
    const m = migration(() => NOW, { readinessTimeoutMs: 200 });
    const switchover = m.made();
    await switchover.after(OUTCOME);
    expect(m.emitted).toEqual([]);
    for (let round = 0; round < 3; round++) expect((await switchover.after(OUTCOME)).action).toBe('continue');
    expect(m.emitted).toEqual([{ type: 'not-prepared', waitedMs: 200 }]);
    m.answer();
    for (let round = 0; round < 2; round++) expect(await switchover.after(OUTCOME)).toBe(NOW);
    expect(m.emitted.slice(1)).toEqual([{ type: 'prepared', waitedMs: 0 }]);
  });

  test("with the policy's force, for readinessTimeoutMs and no longer", async () => {
    const m = migration(() => FORCED, { readinessTimeoutMs: 200 });
    const switchover = m.made();
    expect((await switchover.after(OUTCOME)).action).toBe('continue');
    expect(await switchover.after(OUTCOME)).toBe(FORCED);
    expect(m.emitted).toEqual([{ type: 'not-prepared', waitedMs: 200 }]);
  });

  test('no longer than the migration lasts', async () => {
    const m = migration(() => NOW);
    const reason = new GodwitError('GODWIT_CANCELLED', 'enough');
    void m.clock.sleep(50).then(() => m.end.abort(reason));
    await expect(m.made().after(OUTCOME)).rejects.toBe(reason);
  });

  test('where there is no connection, without asking', async () => {
    const m = migration(() => NOW);
    m.session.current = undefined;
    expect((await m.made().after(OUTCOME)).reason).toContain('it waits: the destination has not said "prepared"');
    m.session.current = { signal: AbortSignal.abort(), write: async ({ attempt }) => void m.asked.push(attempt) };
    await m.made().after(OUTCOME);
    expect(m.asked).toEqual([]);
  });
});

test('the destination is asked from the start, and anew about new state and another attempt', async () => {
  const m = migration(NO_OPINION);
  const switchover = m.made();
  expect(m.asked).toEqual([1]);
  await switchover.after(OUTCOME);
  expect(m.asked).toEqual([1]);
  m.vm.sequences = [1];
  await switchover.after(OUTCOME);
  m.session.attempt = 2;
  await switchover.after(OUTCOME);
  expect(m.asked).toEqual([1, 1, 2]);
});

describe('the time between two rounds', () => {
  test.each([
    [0, 10],
    [4, 6],
    [10, 0],
    [500, 0],
  ])('after a round of %i ms: %i ms', async (totalMs, pauseMs) => {
    const m = migration(NO_OPINION);
    await m.made().untilNext(record(CONTINUE, totalMs));
    expect([m.clock.now(), m.clock.sleepers]).toEqual([pauseMs, 0]);
  });

  test('none before a switchover', async () => {
    const m = migration(NO_OPINION);
    await m.made().untilNext(record(NOW));
    expect(m.clock.now()).toBe(0);
  });

  /** Puts a switchover off, and returns how long the next round is then waited for. */
  async function waited(m: ReturnType<typeof migration>, during: (m: ReturnType<typeof migration>) => void) {
    const switchover = m.made();
    const decision = await switchover.after(OUTCOME);
    expect(decision.action).toBe('continue');
    const since = m.clock.now();
    void m.clock.sleep(30).then(() => during(m));
    await switchover.untilNext(record(decision, 500));
    expect(m.clock.sleepers).toBe(since + 30 > m.clock.now() ? 1 : 0);
    return m.clock.now() - since;
  }

  test('100 ms while a switchover is put off, whatever the round took', async () => {
    expect(
      await waited(
        migration(() => NOW),
        () => {},
      ),
    ).toBe(100);
  });

  test('less when the destination answers, or a switchover is asked for', async () => {
    expect(
      await waited(
        migration(() => NOW),
        ({ answer }) => answer(),
      ),
    ).toBe(30);
    expect(
      await waited(
        migration(() => NOW),
        ({ wish }) => wish.wake(),
      ),
    ).toBe(30);
  });

  test('an answer of the destination does not end the wait for something else', async () => {
    const m = migration(() => NOW);
    m.vm.blocker = 'not yet';
    expect(await waited(m, ({ answer }) => answer())).toBe(100);
  });

  test('a round that did not ask for a switchover is waited for no longer', async () => {
    let decision: Decision | undefined = NOW;
    const m = migration(() => decision);
    const switchover = m.made();
    await switchover.after(OUTCOME);
    decision = undefined;
    const next = await switchover.after(OUTCOME);
    const since = m.clock.now();
    await switchover.untilNext(record(next, 500));
    expect(m.clock.now() - since).toBe(0);
  });

  test('it ends with the migration', async () => {
    const m = migration(NO_OPINION);
    const reason = new GodwitError('GODWIT_CANCELLED', 'enough');
    const waiting = m.made().untilNext(record(CONTINUE));
    void m.clock.sleep(3).then(() => m.end.abort(reason));
    await expect(waiting).rejects.toBe(reason);
    expect([m.clock.now(), m.clock.sleepers]).toEqual([3, 0]);
  });

  test('it leaves nothing with the migration, and nothing shortens it but what a switchover waits for', async () => {
    const m = migration(NO_OPINION);
    void m.clock.sleep(3).then(() => {
      m.wish.wake();
      m.answer();
    });
    await m.made().untilNext(record(CONTINUE));
    expect(m.clock.now()).toBe(10);
    expect(getEventListeners(m.end.signal, 'abort')).toEqual([]);
  });
});

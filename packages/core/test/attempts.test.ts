import { type ErrorCode, GodwitError } from '@godwit/core';
import { engineParts, VirtualClock } from '@godwit/core/testing';
import { expect, test } from '@jest/globals';
import fc from 'fast-check';

const { Attempts } = engineParts;

const failed = (attempt: number, code: ErrorCode) => ({
  attempt,
  term: 'deviceMs' as const,
  pausedMs: 10 * attempt,
  reason: new GodwitError(code, 'on purpose'),
});

test('without a failure there is nothing to wait for', async () => {
  const clock = new VirtualClock();
  const attempts = new Attempts(clock);
  expect([attempts.failed, attempts.overruns, attempts.backOffMs]).toEqual([[], 0, 0]);
  await clock.sleep(1000);
  expect(attempts.backOffMs).toBe(0);
});

test('the back-off doubles with each failure, whatever its reason, up to 10 s, and runs out with the clock', async () => {
  const clock = new VirtualClock();
  const attempts = new Attempts(clock);
  const pauses: number[] = [];
  for (let attempt = 1; attempt <= 7; attempt++) {
    attempts.wentBack(failed(attempt, attempt % 2 === 0 ? 'GODWIT_LINK_LOST' : 'GODWIT_SWITCHOVER_OVERRAN'));
    pauses.push(attempts.backOffMs);
    await clock.sleep(attempts.backOffMs - 1);
    expect(attempts.backOffMs).toBe(1);
    await clock.sleep(1);
    expect(attempts.backOffMs).toBe(0);
    await clock.sleep(100);
    expect(attempts.backOffMs).toBe(0);
  }
  expect(pauses).toEqual([500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
});

test('a failure during a back-off counts from itself, not from the end of the back-off before', async () => {
  const clock = new VirtualClock();
  const attempts = new Attempts(clock);
  attempts.wentBack(failed(1, 'GODWIT_LINK_LOST'));
  await clock.sleep(400);
  attempts.wentBack(failed(2, 'GODWIT_LINK_LOST'));
  expect(attempts.backOffMs).toBe(1000);
});

test('only those that took too long are overruns; all are remembered in order', () => {
  const code = fc.constantFrom<ErrorCode>('GODWIT_SWITCHOVER_OVERRAN', 'GODWIT_LINK_LOST', 'GODWIT_TIMEOUT');
  fc.assert(
    fc.property(fc.array(code, { maxLength: 2000 }), (codes) => {
      const attempts = new Attempts(new VirtualClock());
      const all = codes.map((code, index) => failed(index + 1, code));
      for (const one of all) attempts.wentBack(one);
      expect(attempts.failed).toEqual(all);
      expect(attempts.overruns).toBe(codes.filter((code) => code === 'GODWIT_SWITCHOVER_OVERRAN').length);
      const expected = all.length === 0 ? 0 : Math.min(10_000, 500 * 2 ** (all.length - 1));
      expect(attempts.backOffMs).toBe(expected);
    }),
    { numRuns: 50 },
  );
});

import { type ConvergencePolicy, type Decision, roundCap, timeBudget, withinDowntimeLimit } from '@godwit/core';
import { describe, expect, test } from '@jest/globals';
import { dirty, filled, PAGES, RAM, seen, slowly } from './slow-toy.js';
import { ThrottledVm } from './throttled-vm.js';
import { expectMoved, expectStayed, type Toy } from './toy-migration.js';

const shadowsOf = ({ events }: Toy) => events.flatMap((event) => (event.type === 'shadow' ? [event.shadow] : []));

describe('shadow policies', () => {
  test('each reports once when it would have ended pre-copy, and none acts', async () => {
    const source = filled(new ThrottledVm(RAM));
    const toy = slowly(
      {
        downtimeLimitMs: 600,
        policy: ({ outcome, moment }) =>
          outcome.round >= 3 && moment === 'round-end'
            ? { action: 'switchover', reason: 'three are enough' }
            : undefined,
        shadows: {
          cap: roundCap(1, 'switchover'),
          limit: withinDowntimeLimit,
          budget: timeBudget(4000, 'abort'),
          never: () => undefined,
          throttles: () => ({ action: 'throttle', fraction: 0.9, reason: 'slower' }),
          limits: () => ({ action: 'bandwidth', bytesPerSecond: 1, reason: 'slower' }),
          forces: ({ elapsedMs }) => (elapsedMs > 2000 ? { action: 'force', reason: 'at any price' } : undefined),
          postcopy: ({ elapsedMs }) => (elapsedMs > 2000 ? { action: 'postcopy', reason: 'now' } : undefined),
        },
      },
      { source },
    );
    void dirty(toy, 50);
    const ends = await toy.settled();
    expectMoved(toy, ends);
    if (ends.sent.status === 'rejected') throw ends.sent.reason;
    const { shadows, rounds } = ends.sent.value;
    expect(shadows.map(({ name, action }) => [name, action])).toEqual([
      ['cap', 'force'],
      ['limit', 'switchover'],
      ['budget', 'abort'],
      ['never', 'none'],
      ['throttles', 'none'],
      ['limits', 'none'],
      ['forces', 'force'],
      ['postcopy', 'failed'],
    ]);
    const reported = shadowsOf(toy);
    expect(reported.map(({ name }) => name).sort()).toEqual(['budget', 'cap', 'forces', 'limit', 'postcopy']);
    for (const report of reported) expect(shadows).toContainEqual(report);
    const [cap, limit, budget, never] = shadows;
    const [first] = rounds;
    expect(cap).toMatchObject({
      round: 1,
      predictedDowntimeMs: first?.predictedDowntimeMs,
      owedPages: first?.newlyDirtyPages,
    });
    expect(limit?.predictedDowntimeMs).toBeLessThanOrEqual(600);
    expect(budget).toMatchObject({ round: 0, elapsedMs: 4000, reason: 'the time budget of 4000 ms is used up' });
    expect(budget?.owedPages).toBeGreaterThan(PAGES / 2);
    expect(never).toMatchObject({ round: 3, reason: 'it has not decided to switch over' });
    expect(source.calls).toEqual([]);
    expect(toy.events.filter(({ type }) => type === 'bandwidth')).toEqual([]);
    // Nothing was cut short.
    expect(first?.pages.raw).toBe(PAGES);
  });

  test('it is asked at the same moments and with the same input as the policy', async () => {
    const inputs: Record<'policy' | 'shadow', unknown[]> = { policy: [], shadow: [] };
    const note = (who: keyof typeof inputs): ConvergencePolicy => {
      return (input) => {
        inputs[who].push(seen(input));
        return who === 'policy' ? withinDowntimeLimit(input) : undefined;
      };
    };
    const toy = slowly({ policy: note('policy'), shadows: { same: note('shadow') } });
    void dirty(toy, 20);
    void toy.clock.sleep(3050).then(() => toy.migration.adjust({ downtimeLimitMs: 200 }));
    expectMoved(toy, await toy.settled());
    expect(inputs.policy.length).toBeGreaterThan(150);
    expect(inputs.shadow).toEqual(inputs.policy);
  });

  test.each([
    [
      'throws',
      () => {
        throw new Error('no idea');
      },
      /the shadow policy "bad" threw: no idea/,
    ],
    ['returns an unknown action', () => ({ action: 'stop', reason: 'x' }), /the shadow policy "bad" returned/],
    ['returns a rejected promise', () => Promise.reject(new Error('later')), /the shadow policy "bad" returned/],
    ['returns an impossible number', () => ({ action: 'throttle', fraction: 7, reason: 'x' }), /fraction must be/],
    [
      'throws an object that cannot be shown',
      () => {
        // biome-ignore lint/style/useThrowOnlyError: policies are other people's code
        throw {
          get message() {
            throw new Error('x');
          },
          toString() {
            throw new Error('y');
          },
        };
      },
      /the shadow policy "bad" threw: what cannot be shown/,
    ],
    [
      'returns an object that throws',
      () => ({
        get action() {
          throw new Error('gotcha');
        },
      }),
      /gotcha/,
    ],
  ])('one that %s has failed, and the migration goes on', async (_, bad, reason) => {
    const toy = slowly({ shadows: { bad: bad as () => Decision, good: roundCap(1, 'abort') } });
    const ends = await toy.settled();
    expectMoved(toy, ends);
    if (ends.sent.status === 'rejected') throw ends.sent.reason;
    expect(ends.sent.value.shadows).toMatchObject([
      { name: 'bad', action: 'failed', reason: expect.stringMatching(reason) },
      { name: 'good', action: 'abort' },
    ]);
    expect(shadowsOf(toy)).toHaveLength(2);
  });

  test('one that changes what it is given, or what the policy is given, changes nothing for others', async () => {
    const histories: number[] = [];
    const toy = slowly({
      policy: (input) => {
        histories.push(input.history.length);
        return input.outcome.round >= 2 && input.moment === 'round-end'
          ? { action: 'force', reason: 'enough' }
          : undefined;
      },
      shadows: {
        vandal: (input) => {
          (input.history as unknown[]).splice(0);
          Object.assign(input.outcome, { round: 99, predictedDowntimeMs: 0 });
          Object.assign(input.outcome.prediction, { ramMs: 0 });
          Object.assign(input, { elapsedMs: 1e9 });
          return undefined;
        },
        after: ({ outcome, elapsedMs }) =>
          outcome.round > 50 || elapsedMs > 1e8 ? { action: 'abort', reason: 'it was changed' } : undefined,
      },
    });
    void dirty(toy, 20);
    const ends = await toy.settled();
    expectMoved(toy, ends);
    expect(Math.max(...histories)).toBe(1);
    if (ends.sent.status === 'rejected') throw ends.sent.reason;
    expect(ends.sent.value.shadows.map(({ action }) => action)).toEqual(['none', 'none']);
  });

  test('a subscriber that cancels when it hears of one', async () => {
    const toy = slowly({ shadows: { cap: timeBudget(1000, 'abort') } });
    toy.migration.subscribe((event) => event.type === 'shadow' && toy.migration.cancel());
    expectStayed(toy, await toy.settled(), 'GODWIT_CANCELLED');
  });

  test.each([
    ['policy', { policy: 'fast' }, /policy must be a function or one of .*got "fast"/],
    ['shadows', { shadows: null }, /shadows must be an object/],
    ['a shadow', { shadows: { a: 7 } }, /shadows\.a must be a function or one of .*got 7/],
  ])('%s that is no policy is refused at once', (_, options, message) => {
    if ((options as { shadows?: unknown }).shadows === null) {
      expect(() => slowly({ shadows: 7 as never })).toThrow(message);
      return;
    }
    expect(() => slowly(options as never)).toThrow(message);
  });
});

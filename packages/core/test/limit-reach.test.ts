import {
  type ConvergencePolicy,
  firstOpinion,
  type MigratableDevice,
  type MigrationEvent,
  timeBudget,
  withinDowntimeLimit,
} from '@godwit/core';
import { FaultyDevice, ToyVm } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { dirty, filled, RAM, slowly } from './slow-toy.js';
import { expectMoved, expectStayed, start, type Toy } from './toy-migration.js';

type Unreachable = Extract<MigrationEvent, { type: 'limit-unreachable' }>;

/** The events, each with the number of rounds that were complete before it, and the time. */
function told(toy: Toy): { readonly rounds: number; readonly ms: number; readonly event: Unreachable }[] {
  const found: { rounds: number; ms: number; event: Unreachable }[] = [];
  let rounds = 0;
  toy.migration.subscribe((event) => {
    if (event.type === 'round') rounds++;
    if (event.type === 'limit-unreachable') found.push({ rounds, ms: toy.clock.now(), event });
  });
  return found;
}

describe('a limit that no round can reach', () => {
  test('is told in the middle of round 1, with the terms that make it so, and once', async () => {
    const toy = slowly({ downtimeLimitMs: 1, policy: timeBudget(40_000, 'abort') });
    const events = told(toy);
    void dirty(toy, 10);
    expectStayed(toy, await toy.settled(), 'GODWIT_NOT_CONVERGING');
    expect(events).toHaveLength(1);
    const [first] = events;
    expect(first).toMatchObject({ rounds: 0, event: { code: 'GODWIT_LIMIT_UNREACHABLE', limitMs: 1 } });
    // A batch takes a second on this link; before one is through, nothing is known of it.
    expect(first?.ms).toBeLessThan(1500);
    const { ramMs, ...fixed } = first?.event.terms ?? { ramMs: 0 };
    const sum = Object.values(fixed).reduce((total, ms) => total + ms, 0);
    expect(first?.event.fixedMs).toBeCloseTo(sum, 6);
    expect(sum).toBeGreaterThan(1);
  });

  test('is told at once after adjust(), and again after it was reachable meanwhile', async () => {
    const toy = slowly({ policy: timeBudget(8000, 'abort') });
    const events = told(toy);
    for (const [ms, limit] of [
      [2000, 1],
      [2050, 300],
      [2070, 1],
      [3000, 1],
    ] as const) {
      await toy.clock.sleep(ms - toy.clock.now());
      toy.migration.adjust({ downtimeLimitMs: limit });
    }
    expectStayed(toy, await toy.settled(), 'GODWIT_NOT_CONVERGING');
    expect(events.map(({ ms }) => ms)).toEqual([2000, 2070]);
  });

  test('is not told again after a switchover that was given up', async () => {
    const source = filled(new ToyVm(RAM));
    source.devices = [
      {
        id: 'gpu',
        version: 1,
        async *save() {
          await toy.clock.sleep(source.pauses > 2 ? 0 : 700);
          yield Uint8Array.of(1);
        },
        load: async () => {},
      },
    ];
    const destination = new ToyVm(RAM, { running: false, devices: [new FaultyDevice('gpu')] });
    const policy: ConvergencePolicy = ({ moment, fixedDowntimeMs, downtimeLimitMs, overruns }) => {
      if (moment !== 'round-end') return undefined;
      if (overruns >= 2) return { action: 'force', reason: 'at last' };
      return fixedDowntimeMs > downtimeLimitMs ? { action: 'switchover', reason: 'it cannot be reached' } : undefined;
    };
    const toy: Toy = slowly({ downtimeLimitMs: 1, policy }, { source, destination });
    const events = told(toy);
    void dirty(toy, 20);
    expectMoved(toy, await toy.settled());
    expect(toy.events.filter(({ type }) => type === 'went-back')).toHaveLength(2);
    expect(events).toHaveLength(1);
  });

  test('ends as the policy says, which sees that it cannot be reached', async () => {
    const raise: ConvergencePolicy = ({ moment, fixedDowntimeMs, downtimeLimitMs, outcome }) => {
      if (fixedDowntimeMs <= downtimeLimitMs || moment !== 'round-end') return undefined;
      const limit = 2 * fixedDowntimeMs;
      if (outcome.predictedDowntimeMs > limit) return undefined;
      return { action: 'switchover', downtimeLimitMs: limit, reason: `no round reaches ${downtimeLimitMs} ms` };
    };
    const toy = slowly({ downtimeLimitMs: 1, policy: firstOpinion(raise, withinDowntimeLimit) });
    void dirty(toy, 50);
    const ends = await toy.settled();
    expectMoved(toy, ends);
    if (ends.sent.status === 'rejected') throw ends.sent.reason;
    const { rounds, attempts } = ends.sent.value;
    expect(attempts).toEqual([]);
    expect(rounds.length).toBeLessThan(20);
    expect(rounds.at(-2)?.decision).toMatchObject({ action: 'switchover', reason: 'no round reaches 1 ms' });
  });

  test.each([
    ['idle', 0],
    ['busy', 20],
  ])('ends a tenth of the budget later by default, without a pause: %s guest', async (_, writesEveryMs) => {
    const gpu = () => {
      const state = new Uint8Array(40e6);
      const device: MigratableDevice = {
        id: 'gpu',
        version: 1,
        stateBytes: () => state.length,
        async *save() {
          yield state;
        },
        load: async () => {},
      };
      return device;
    };
    const source = filled(new ToyVm(RAM));
    source.devices = [gpu()];
    const destination = new ToyVm(RAM, { running: false, devices: [gpu()] });
    // 40 MB over 10 MB/s: four seconds, whatever the guest does.
    const toy = start({ source, destination, link: { bytesPerSecond: 10e6 }, migrate: { downtimeLimitMs: 300 } });
    if (writesEveryMs > 0) void dirty(toy, writesEveryMs);
    const ends = await toy.settled();
    expectStayed(toy, ends, 'GODWIT_NOT_CONVERGING');
    expect(String((ends.sent as PromiseRejectedResult).reason)).toMatch(
      /no round can reach the downtime limit of 300 ms/,
    );
    expect(toy.events.filter(({ type }) => type === 'switchover-start')).toEqual([]);
    const rounds = toy.events.flatMap((event) => (event.type === 'round' ? [event.round] : []));
    const [first, last] = [rounds.at(0), rounds.at(-1)];
    const waitedMs = (last?.endedAtMs ?? 0) - (first?.endedAtMs ?? 0);
    expect(waitedMs).toBeGreaterThan(5000);
    expect(waitedMs).toBeLessThan(7100);
  });

  test('and one that is reached is never told', async () => {
    const toy = slowly({ downtimeLimitMs: 100 });
    const events = told(toy);
    void dirty(toy, 50);
    expectMoved(toy, await toy.settled());
    expect(events).toEqual([]);
  });
});

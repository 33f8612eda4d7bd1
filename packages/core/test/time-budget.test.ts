import {
  type ConvergencePolicy,
  claimOf,
  firstOpinion,
  GodwitError,
  type MigrateOptions,
  timeBudget,
  withinDowntimeLimit,
} from '@godwit/core';
import { FaultyDevice, FaultyTracker, memoryLink, ToyVm, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { dirty, filled, LINK, RAM, seen, slowly } from './slow-toy.js';
import type { Toy, ToyOptions } from './toy-migration.js';

const BUDGET_MS = 10_000;
const MIGRATE: MigrateOptions = { policy: firstOpinion(timeBudget(BUDGET_MS, 'abort'), withinDowntimeLimit) };
const never = () => new Promise<never>(() => {});

/** The time at which the source ends; the guest runs on there. */
async function endOf(toy: Toy): Promise<number> {
  const error = await toy.migration.result.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  const at = toy.clock.now();
  expect(error).toMatchObject({ code: 'GODWIT_NOT_CONVERGING' });
  expect([toy.source.running, toy.destination.running]).toEqual([true, false]);
  toy.incoming.cancel('the test is over');
  return at;
}

function expectKept(ms: number): void {
  expect(ms).toBeGreaterThanOrEqual(BUDGET_MS);
  expect(ms).toBeLessThanOrEqual(BUDGET_MS + 200);
}

describe('a time budget of ten seconds ends a migration within 200 ms of ten seconds', () => {
  test('in round 1', async () => {
    expectKept(await endOf(slowly(MIGRATE)));
  });

  test('in round 1, with page channels, deep buffers and a bandwidth limit', async () => {
    const link = { bytesPerSecond: 2 ** 20, latencyMs: 20, capacity: 64 };
    expectKept(await endOf(slowly({ ...MIGRATE, pageChannels: 4, bandwidthLimit: 2 ** 19 }, { link })));
  });

  test('after many rounds', async () => {
    const toy = slowly({ ...MIGRATE, downtimeLimitMs: 1 }, { link: { bytesPerSecond: 16 * 2 ** 20 } });
    void dirty(toy, 0.5);
    expectKept(await endOf(toy));
  });

  /** A link that is cut after `cutAt` and stays away. */
  function withoutLink(cutAt: number, connect: (signal: AbortSignal) => Promise<never>): Toy {
    const clock = new VirtualClock();
    const { connector, listener, cut } = memoryLink({ clock, ...LINK });
    let away = cutAt === 0;
    void clock.sleep(cutAt).then(() => {
      away = true;
      if (cutAt > 0) cut();
    });
    const options: ToyOptions = {
      clock,
      listener,
      connector: { connect: (request, signal) => (away ? connect(signal) : connector.connect(request, signal)) },
    };
    return slowly({ ...MIGRATE, connectTimeoutMs: 30_000 }, options);
  }

  test.each([
    ['refuses', async () => Promise.reject(new GodwitError('GODWIT_CONNECT_FAILED', 'nobody is there'))],
    ['does not answer', never],
  ])('while the link is down, and whoever is asked for another %s', async (_, connect) => {
    expectKept(await endOf(withoutLink(2000, connect)));
    expectKept(await endOf(withoutLink(9950, connect)));
  });

  test('while the first connection cannot be made', async () => {
    expectKept(
      await endOf(withoutLink(0, async () => Promise.reject(new GodwitError('GODWIT_CONNECT_FAILED', 'nobody')))),
    );
    expectKept(await endOf(withoutLink(0, never)));
  });

  test('while `prepare` of the destination hangs', async () => {
    expectKept(await endOf(slowly(MIGRATE, { prepare: never })));
  });

  test('while `prepared` of the destination hangs', async () => {
    const destination = Object.assign(new ToyVm(RAM, { running: false }), { prepared: never });
    expectKept(await endOf(slowly(MIGRATE, { destination, link: { bytesPerSecond: 8 * 2 ** 20 } })));
  });

  test.each(['start', 'harvest', 'stop'] as const)('while %s of a tracker hangs', async (call) => {
    const source = filled(new ToyVm(RAM));
    const tracker = new FaultyTracker(source.software, source.memory, {});
    Object.assign(tracker, { [call]: never });
    source.trackers = [tracker];
    const link = call === 'harvest' ? { bytesPerSecond: 8 * 2 ** 20 } : LINK;
    const toy = slowly(MIGRATE, { source, link });
    expectKept(await endOf(toy));
    if (call !== 'start') expect(claimOf(source).state).toBe('outgoing');
  });

  test.each(['stateBytes', 'switchoverBlocker', 'precopy'] as const)('while %s of a device hangs', async (call) => {
    const device = new FaultyDevice('gpu', Uint8Array.of(1));
    let calls = 0;
    const hanging = {
      stateBytes: () => (calls++ === 0 ? 1 : never()),
      switchoverBlocker: never,
      // biome-ignore lint/correctness/useYield: it hangs first
      async *precopy() {
        await never();
      },
    };
    Object.assign(device, { [call]: hanging[call] });
    const source = filled(new ToyVm(RAM));
    source.devices = [device];
    const destination = new ToyVm(RAM, { running: false, devices: [new FaultyDevice('gpu')] });
    const link = { bytesPerSecond: 8 * 2 ** 20 };
    expectKept(await endOf(slowly({ ...MIGRATE, downtimeLimitMs: 3000 }, { source, destination, link })));
  });

  test('while switchovers are given up, and the back-off lasts', async () => {
    const source = filled(new ToyVm(RAM));
    // Whatever is owed, a device takes too long to be saved.
    source.devices = [
      {
        id: 'gpu',
        version: 1,
        async *save() {
          await toy.clock.sleep(700);
          yield Uint8Array.of(1);
        },
        load: async () => {},
      },
    ];
    const destination = new ToyVm(RAM, { running: false, devices: [new FaultyDevice('gpu')] });
    const policy: ConvergencePolicy = ({ elapsedMs, outcome }) => {
      if (elapsedMs >= BUDGET_MS) return { action: 'abort', reason: 'the time is up' };
      return outcome.linkBytesPerSecond > 0 ? { action: 'switchover', reason: 'perhaps' } : undefined;
    };
    const toy: Toy = slowly({ policy }, { source, destination, link: { bytesPerSecond: 16 * 2 ** 20 } });
    expectKept(await endOf(toy));
    expect(toy.events.filter(({ type }) => type === 'went-back').length).toBeGreaterThan(3);
  });

  test('while a pause that was given up has not returned', async () => {
    const source = filled(new ToyVm(RAM));
    source.onPause = async () => {
      await toy.clock.sleep(20_000);
    };
    const toy: Toy = slowly(MIGRATE, { source, link: { bytesPerSecond: 16 * 2 ** 20 } });
    const { code } = (await toy.migration.result.catch((error: unknown) => error)) as GodwitError;
    expect(code).toBe('GODWIT_NOT_CONVERGING');
    expectKept(toy.clock.now());
    await toy.clock.sleep(20_000);
    expect(source.running).toBe(true);
    toy.incoming.cancel('the test is over');
  });
});

test('the policy is asked at least every 100 ms while the guest runs, and just when the budget is used up', async () => {
  const source = filled(new ToyVm(RAM));
  const tracker = new FaultyTracker(source.software, source.memory, {});
  let harvests = 0;
  const clock = new VirtualClock();
  Object.assign(tracker, {
    harvest: async (into: Parameters<FaultyTracker['harvest']>[0]) => {
      await clock.sleep(harvests++ === 0 ? 777 : 5);
      await source.software.harvest(into);
    },
  });
  source.trackers = [tracker];
  const { connector, listener, cut } = memoryLink({ clock, bytesPerSecond: 4 * 2 ** 20 });
  let away = false;
  const asked: number[] = [];
  const toy = slowly(
    {
      timeBudgetMs: 9777,
      policy: (input) => {
        asked.push(seen(input).elapsedMs);
        return input.elapsedMs >= 9777 ? { action: 'abort', reason: 'enough' } : undefined;
      },
    },
    {
      clock,
      source,
      listener,
      connector: {
        connect: async (request, signal) => {
          if (away) throw new GodwitError('GODWIT_CONNECT_FAILED', 'nobody is there');
          return connector.connect(request, signal);
        },
      },
      prepare: async (destination) => {
        await clock.sleep(512);
        return destination;
      },
    },
  );
  void dirty(toy, 3);
  void clock.sleep(2000).then(() => {
    away = true;
    cut();
  });
  void clock.sleep(4000).then(() => {
    away = false;
  });
  await toy.settled();
  const gaps = asked.map((at, i) => at - (asked[i - 1] ?? 0));
  expect(Math.max(...gaps)).toBeLessThanOrEqual(100);
  expect(asked.at(-1)).toBe(9777);
});

import {
  type ConvergencePolicy,
  GodwitError,
  type MigrateOptions,
  type MigrationEvent,
  type ThrottleOptions,
} from '@godwit/core';
import { engineParts, FaultyDevice, memoryLink, ToyVm, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { dirty, filled, LINK, RAM, slowly } from './slow-toy.js';
import { ThrottledVm } from './throttled-vm.js';
import { expectMoved, expectStayed, start, type Toy, type ToyOptions } from './toy-migration.js';

const { GuestThrottle, spread, VcpuSpread } = engineParts;
type Parts = ConstructorParameters<typeof GuestThrottle>[0];

describe('spread', () => {
  const written = (fractions: readonly number[], rates: readonly number[]) =>
    rates.reduce((sum, rate, vcpu) => sum + rate * (1 - (fractions[vcpu] as number)), 0);

  test.each([
    [0.5, [10, 10], [0.5, 0.5]],
    [0.5, [10], [0.5]],
    [0.5, [0, 10], [0, 0.5]],
    [0.25, [30, 10], [1 / 3, 0]],
    [0.6, [90, 5, 5], [2 / 3, 0, 0]],
    [0.8, [10, 0, 0, 40], [0.5, 0, 0, 0.875]],
    [0.3, [0, 0], [0.3, 0.3]],
  ])('%d of the writes of %p: %p', (fraction, rates, expected) => {
    expect(spread(fraction, rates)).toEqual(expected.map((each) => expect.closeTo(each, 9)));
  });

  test('together the vCPUs write as much less as with one throttle for all, and none is held beyond 0.99', () => {
    for (let seed = 1; seed < 200; seed++) {
      const rates = Array.from({ length: 1 + (seed % 7) }, (_, vcpu) => (seed * 7919 * (vcpu + 1) ** 2) % 1000);
      const total = rates.reduce((sum, rate) => sum + rate, 0);
      for (const fraction of [0.01, 0.2, 0.5, 0.9, 0.99]) {
        const fractions = spread(fraction, rates);
        const most = Math.max(...fractions);
        const expected = total * (1 - fraction);
        if (most < 0.99) expect(written(fractions, rates)).toBeCloseTo(expected, 6);
        else expect(Math.abs(written(fractions, rates) - expected)).toBeLessThanOrEqual(0.01 * total);
        expect(Math.max(...fractions)).toBeLessThanOrEqual(0.99);
      }
    }
  });
});

test('the writes of a vCPU count by the time in which it was not held back', () => {
  const vcpus = new VcpuSpread(0);
  expect(vcpus.fractions(0.5)).toBeUndefined();
  vcpus.sample(5, [1000, 0], () => 0);
  expect(vcpus.fractions(0.5)).toBeUndefined();
  // Both would write the same at full speed.
  vcpus.sample(100, [100, 25], (vcpu) => (vcpu === 0 ? 0 : 0.75));
  expect(vcpus.fractions(0.5)).toEqual([0.5, 0.5].map((each) => expect.closeTo(each, 9)));
  vcpus.sample(200, [100, 0], () => 0);
  expect(vcpus.fractions(0.5)).toEqual([0.625, 0.25].map((each) => expect.closeTo(each, 9)));
});

describe('GuestThrottle', () => {
  function driver(vm: object) {
    const clock = new VirtualClock();
    const events: MigrationEvent[] = [];
    const calls: (ThrottleOptions & { readonly fraction: number })[] = [];
    const guest = { asked: false, quiet: true };
    const limit = { ms: 300 };
    const throttle = new GuestThrottle({
      vm: {
        throttle: (fraction: number, options: ThrottleOptions) => void calls.push({ fraction, ...options }),
        ...vm,
      } as unknown as Parts['vm'],
      guest: guest as Parts['guest'],
      clock,
      longestMs: () => limit.ms,
      emit: (event) => events.push(event),
    });
    return { clock, events, calls, guest, limit, throttle };
  }

  test('the mean since a mark, and how much the guest was slowed, are weighed by time', async () => {
    const { clock, throttle } = driver({});
    await clock.sleep(100);
    const mark = throttle.mark();
    expect(throttle.meanSince(mark)).toBe(0);
    throttle.decide(0.5, 'x');
    expect(throttle.meanSince(mark)).toBe(0.5);
    await clock.sleep(100);
    throttle.decide(0.9, 'x');
    await clock.sleep(300);
    expect(throttle.meanSince(mark)).toBeCloseTo(0.8, 9);
    throttle.decide(0, 'x');
    await clock.sleep(400);
    expect(throttle.meanSince(mark)).toBeCloseTo(0.4, 9);
    expect(throttle.throttledMs).toBeCloseTo(320, 9);
  });

  test('what is decided again is not applied again; another downtime limit is, down to a millisecond', () => {
    const { calls, limit, throttle, events } = driver({});
    throttle.decide(0, 'x');
    throttle.refresh();
    throttle.decide(0.4, 'x');
    throttle.decide(0.4, 'y');
    throttle.refresh();
    limit.ms = 50;
    throttle.refresh();
    limit.ms = 0;
    throttle.refresh();
    expect(calls).toEqual([300, 50, 1].map((longestMs) => ({ fraction: 0.4, longestMs })));
    expect(events).toHaveLength(1);
  });

  test('while pause or resume is pending, or the guest is paused, it waits', () => {
    const { calls, guest, throttle } = driver({});
    guest.quiet = false;
    throttle.decide(0.4, 'x');
    guest.quiet = true;
    guest.asked = true;
    throttle.refresh();
    expect(calls).toEqual([]);
    guest.asked = false;
    throttle.refresh();
    guest.asked = true;
    throttle.paused();
    expect(calls.map(({ fraction }) => fraction)).toEqual([0.4, 0]);
    guest.asked = false;
    throttle.refresh();
    expect(calls.at(-1)?.fraction).toBe(0.4);
    guest.quiet = false;
    throttle.end();
    expect([throttle.holds, calls.length]).toEqual([true, 3]);
    guest.quiet = true;
    throttle.end();
    throttle.decide(0.7, 'late');
    throttle.refresh();
    expect([throttle.holds, calls.length, calls.at(-1)?.fraction]).toEqual([false, 4, 0]);
  });

  test('those vCPUs are held back that write most, and an idle one is not', async () => {
    let writes = [0, 0];
    const { clock, calls, throttle } = driver({ vcpuWrites: () => writes });
    throttle.decide(0.5, 'x');
    expect(calls).toEqual([{ fraction: 0.5, longestMs: 300 }]);
    for (let i = 0; i < 10; i++) {
      await clock.sleep(100);
      // The second one writes 10 pages a millisecond at full speed, the first one none.
      writes = [0, 1000 * (1 - (calls.at(-1)?.vcpus?.[1] ?? 0.5))];
      throttle.refresh();
    }
    expect(calls.at(-1)).toEqual({ fraction: 0.5, longestMs: 300, vcpus: [0, expect.closeTo(0.5, 6)] });
    // Applied once: nothing has changed since.
    expect(calls).toHaveLength(2);
    // Of two vCPUs one was held back for half of the time, of which 100 ms were before that was known.
    expect(throttle.throttledMs).toBeCloseTo(50 + 900 * 0.25, 6);
    expect(throttle.fraction).toBe(0.5);
  });

  test.each([
    [
      'throws',
      () => {
        throw new Error('no counters');
      },
    ],
    ['returns no list', () => 7],
    ['returns what is no number', () => [1, Number.NaN]],
    ['returns an empty list', () => []],
  ])('vcpuWrites that %s is reported once, and all vCPUs are held back alike', async (_, vcpuWrites) => {
    const { clock, calls, events, throttle } = driver({ vcpuWrites });
    throttle.decide(0.5, 'x');
    await clock.sleep(100);
    throttle.refresh();
    expect(calls).toEqual([{ fraction: 0.5, longestMs: 300 }]);
    expect(events.filter(({ type }) => type === 'warning')).toHaveLength(1);
  });

  test.each([
    [
      'throws',
      () => {
        throw new Error('no cgroup');
      },
    ],
    ['rejects', () => Promise.reject(new Error('no cgroup'))],
  ])('throttle that %s is reported, and the guest is let go of', async (_, fail) => {
    let broken = false;
    const applied: number[] = [];
    const { clock, events, throttle } = driver({
      throttle: (fraction: number) => {
        applied.push(fraction);
        return broken && fraction > 0 ? fail() : undefined;
      },
    });
    throttle.decide(0.2, 'x');
    broken = true;
    throttle.decide(0.4, 'x');
    await clock.sleep(1);
    throttle.refresh();
    expect(applied).toEqual([0.2, 0.4, 0]);
    expect(events.filter(({ type }) => type === 'warning')).toMatchObject([
      { code: 'GODWIT_VM_FAILED', message: expect.stringMatching(/no cgroup.*throttled no more/) },
    ]);
    expect([throttle.available, throttle.fraction, throttle.holds]).toEqual([false, 0, false]);
    expect(throttle.unavailable).toMatch(/has failed: no cgroup/);
  });

  test('a guest that cannot be let go of: that is tried again at the end, and said', () => {
    const { events, throttle } = driver({
      throttle: () => {
        throw new Error('no cgroup');
      },
    });
    throttle.decide(0.2, 'x');
    expect(throttle.holds).toBe(true);
    throttle.end();
    const messages = events.flatMap((event) => (event.type === 'warning' ? [event.message] : []));
    expect(messages).toHaveLength(2);
    expect(messages[1]).toMatch(/vCPUs may still be held back: call throttle\(0\) of the VM/);
  });
});

describe('whatever the end, the guest is at full speed', () => {
  const half: ConvergencePolicy = ({ throttle }) =>
    throttle === 0.5 ? undefined : { action: 'throttle', fraction: 0.5, reason: 'half' };
  /** Half speed, and a switchover at any price after round 2. */
  const throttled: ConvergencePolicy = (input) =>
    input.outcome.round >= 2 && input.moment === 'round-end' ? { action: 'switchover', reason: 'enough' } : half(input);

  function begin(source: ThrottledVm, migrate: MigrateOptions = {}, options: ToyOptions = {}): Toy {
    const toy = slowly({ policy: throttled, ...migrate }, { source: filled(source), ...options });
    void dirty(toy, 5);
    return toy;
  }

  function expectFree(source: ThrottledVm): void {
    expect(source.breaches).toEqual([]);
    expect([source.calls.some(({ fraction }) => fraction === 0.5), source.fraction]).toEqual([true, 0]);
  }

  test('success: before the guest runs at the destination, which is not throttled', async () => {
    const source = new ThrottledVm(RAM);
    const destination = new ThrottledVm(RAM, { running: false });
    let atResume: number | undefined;
    destination.onResume = () => {
      atResume = source.fraction;
    };
    const toy = begin(source, { downtimeLimitMs: 1000 }, { destination });
    expectMoved(toy, await toy.settled());
    expectFree(source);
    expect([atResume, destination.calls]).toEqual([0, []]);
  });

  test.each([500, 20_000])('a cancel after %i ms', async (ms) => {
    const source = new ThrottledVm(RAM);
    const toy = begin(source, { policy: half });
    await toy.clock.sleep(ms);
    toy.migration.cancel();
    expectStayed(toy, await toy.settled(), 'GODWIT_CANCELLED');
    expectFree(source);
  });

  test('before what else there is to do at the end, which may take long', async () => {
    const source = new ThrottledVm(RAM);
    const { software } = source;
    let atStop: number | undefined;
    source.trackers = [
      {
        name: 'slow to stop',
        start: () => software.start(),
        harvest: (into) => software.harvest(into),
        stop: async () => {
          atStop = source.fraction;
          await software.stop();
        },
      },
    ];
    const toy = begin(source, { policy: half });
    await toy.clock.sleep(500);
    toy.migration.cancel();
    expectStayed(toy, await toy.settled(), 'GODWIT_CANCELLED');
    expect(atStop).toBe(0);
    expectFree(source);
  });

  test('a cancel while pause() hangs: as soon as it has returned', async () => {
    const source = new ThrottledVm(RAM);
    const toy = begin(source, { downtimeLimitMs: 1000 });
    let paused = 0;
    source.onPause = async () => {
      paused = toy.clock.now();
      void toy.clock.sleep(20).then(() => toy.migration.cancel());
      await toy.clock.sleep(3000);
    };
    const { code } = await toy.settled();
    expect([code, source.fraction]).toEqual(['GODWIT_CANCELLED', 0.5]);
    await toy.clock.sleep(paused + 3001 - toy.clock.now());
    expect(source.running).toBe(true);
    expectFree(source);
  });

  test('a cancel in pre-switchover', async () => {
    const source = new ThrottledVm(RAM);
    const toy = begin(source, { downtimeLimitMs: 1000, pauseBeforeSwitchover: true });
    while (toy.migration.state !== 'pre-switchover') await toy.clock.sleep(100);
    expect(source.fraction).toBe(0);
    toy.migration.cancel();
    expectStayed(toy, await toy.settled(), 'GODWIT_CANCELLED');
    expectFree(source);
  });

  test('the link is lost for ever', async () => {
    const source = new ThrottledVm(RAM);
    const clock = new VirtualClock();
    const { connector, listener, cut } = memoryLink({ clock, ...LINK });
    let away = false;
    const toy = begin(
      source,
      { reconnectTimeoutMs: 5000, policy: half },
      {
        clock,
        listener,
        connector: {
          connect: async (request, signal) => {
            if (away) throw new GodwitError('GODWIT_CONNECT_FAILED', 'nobody is there');
            return connector.connect(request, signal);
          },
        },
      },
    );
    await clock.sleep(2000);
    away = true;
    cut();
    const { code } = await toy.settled();
    expect([code, source.running]).toEqual(['GODWIT_LINK_LOST', true]);
    expectFree(source);
  });

  test('the destination refuses, after a policy has throttled before the first round', async () => {
    const source = new ThrottledVm(RAM);
    const toy = begin(
      source,
      {},
      {
        prepare: async () => {
          await toy.clock.sleep(500);
          throw new Error('no memory left');
        },
      },
    );
    expectStayed(toy, await toy.settled(), 'GODWIT_PREPARE_FAILED');
    expectFree(source);
  });

  test('a device cannot be saved', async () => {
    const source = new ThrottledVm(RAM, {
      devices: [
        {
          id: 'gpu',
          version: 1,
          // biome-ignore lint/correctness/useYield: it fails first
          async *save() {
            throw new Error('it is gone');
          },
          load: async () => {},
        },
      ],
    });
    const destination = new ToyVm(RAM, { running: false, devices: [new FaultyDevice('gpu')] });
    const toy = begin(source, { downtimeLimitMs: 1000 }, { destination });
    expectStayed(toy, await toy.settled(), 'GODWIT_DEVICE_FAILED');
    expectFree(source);
  });

  test('the policy gives up, or throws', async () => {
    for (const last of [
      () => ({ action: 'abort', reason: 'enough' }) as const,
      () => {
        throw new Error('no idea');
      },
    ]) {
      const source = new ThrottledVm(RAM);
      const toy = begin(source, { policy: (input) => (input.elapsedMs > 3000 ? last() : half(input)) });
      expectStayed(toy, await toy.settled());
      expectFree(source);
    }
  });

  test('throttle throws in the middle: a warning, no more decisions of it, and the guest comes over', async () => {
    const source = new ThrottledVm(RAM);
    source.onThrottle = (fraction) => {
      if (fraction === 0.7) throw new Error('no cgroup');
    };
    const can: boolean[] = [];
    const toy = begin(source, {
      downtimeLimitMs: 1000,
      policy: (input) => {
        can.push(input.canThrottle);
        if (input.elapsedMs > 5000 && input.elapsedMs < 5200 && input.canThrottle) {
          return { action: 'throttle', fraction: 0.7, reason: 'more' };
        }
        if (input.canThrottle) return throttled(input);
        return input.outcome.round >= 2 && input.moment === 'round-end' ? throttled(input) : undefined;
      },
    });
    expectMoved(toy, await toy.settled());
    expectFree(source);
    expect([can[0], can.at(-1)]).toEqual([true, false]);
    const warnings = toy.events.filter((event) => event.type === 'warning' && event.code === 'GODWIT_VM_FAILED');
    expect(warnings).toHaveLength(1);
  });

  test('a switchover that is given up: throttled again once the guest runs on', async () => {
    const source = new ThrottledVm(RAM);
    const toy = begin(source, {
      downtimeLimitMs: 1000,
      policy: (input) => (input.overruns > 0 ? { action: 'force', reason: 'now' } : throttled(input)),
    });
    source.onPause = () => {
      if (source.pauses === 1)
        for (let page = 0; page < 2000; page++) source.deviceWrite(0, page * 4096, Uint8Array.of(7));
    };
    const back: number[] = [];
    toy.migration.subscribe(({ type }) => type === 'went-back' && back.push(source.fraction));
    expectMoved(toy, await toy.settled());
    expectFree(source);
    expect(back).toEqual([0.5]);
    expect(source.calls.map(({ fraction, running }) => [fraction, running])).toEqual([
      [0.5, true],
      [0, false],
      [0.5, true],
      [0, false],
    ]);
  });
});

test('a guest that writes as fast as the link carries converges once it is throttled, and not before', async () => {
  for (const throttles of [false, true]) {
    const source = new ThrottledVm([{ id: 'ram', guestPhysicalAddress: 0, byteLength: 512 * 4096 }]);
    for (let page = 0; page < 512; page++) source.write(0, page * 4096, new Uint8Array(4096).fill(page + 1));
    const toy = start({
      source,
      destination: new ToyVm([{ id: 'ram', guestPhysicalAddress: 0, byteLength: 512 * 4096 }], { running: false }),
      link: LINK,
      migrate: {
        downtimeLimitMs: 200,
        policy: ({ outcome, canThrottle, throttle, downtimeLimitMs, elapsedMs, moment }) => {
          if (elapsedMs > 60_000) return { action: 'abort', reason: 'it does not converge' };
          if (moment === 'round-end' && outcome.predictedDowntimeMs <= downtimeLimitMs) {
            return { action: 'switchover', reason: 'it fits' };
          }
          return throttles && canThrottle && throttle === 0 && outcome.round >= 2
            ? { action: 'throttle', fraction: 0.8, reason: 'it does not converge' }
            : undefined;
        },
      },
    });
    // At full speed 300 pages a second, of the 256 that the link carries; held back as the VM is told.
    void (async () => {
      for (let i = 0; !['failed', 'completed'].includes(toy.migration.state); i++) {
        await toy.clock.sleep(10 / 3 / (1 - source.fraction));
        if (source.running) source.write(0, ((i * 37) % 512) * 4096, Uint8Array.of(i));
      }
    })();
    const ends = await toy.settled();
    if (throttles) expectMoved(toy, ends);
    else expectStayed(toy, ends, 'GODWIT_NOT_CONVERGING');
  }
});

import {
  type ConvergencePolicy,
  type Decision,
  firstOpinion,
  type MigrateOptions,
  type PolicyMoment,
  roundCap,
  withinDowntimeLimit,
} from '@godwit/core';
import { FaultyDevice, ToyVm, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { dirty, filled, PAGES, RAM, seen, slowly } from './slow-toy.js';
import { ThrottledVm } from './throttled-vm.js';
import { expectMoved, expectStayed, start, type Toy } from './toy-migration.js';

const MOMENTS: readonly PolicyMoment[] = ['in-round', 'adjusted', 'round-end'];
const because = { reason: 'a test' };

/** Decides `decision`, or what it returns, once, at the first such moment in which the guest's pages are being sent; else nothing, and the end at last. */
function once(moment: PolicyMoment, decision: unknown, name = 'once'): ConvergencePolicy {
  let done = false;
  const policy: ConvergencePolicy = (input) => {
    if (!done && input.moment === moment && input.elapsedMs >= 1000) {
      done = true;
      return (typeof decision === 'function' ? decision() : decision) as Decision;
    }
    return input.outcome.round >= 2 && input.moment === 'round-end' ? { action: 'force', ...because } : undefined;
  };
  return Object.defineProperty(policy, 'name', { value: name });
}

/** Starts with a guest that can be throttled, and changes a limit after two seconds. */
function begin(policy: ConvergencePolicy, options: MigrateOptions = {}, source: ToyVm = new ThrottledVm(RAM)): Toy {
  const toy = slowly({ downtimeLimitMs: 100, ...options, policy }, { source: filled(source) });
  void toy.clock.sleep(2000).then(() => {
    if (toy.migration.state === 'active') toy.migration.adjust({ downtimeLimitMs: 101 });
  });
  return toy;
}

describe.each(MOMENTS)('%s', (moment) => {
  test.each([
    ['an unknown action', { action: 'stop', ...because }, 'GODWIT_INVALID_ARGUMENT', /a decision is/],
    ['null', null, 'GODWIT_INVALID_ARGUMENT', /returned null/],
    ['a promise', () => Promise.reject(new Error('later')), 'GODWIT_INVALID_ARGUMENT', /a decision is/],
    ['a throttle of 1', { action: 'throttle', fraction: 1, ...because }, 'GODWIT_INVALID_ARGUMENT', /0 to 0.99, got 1/],
    ['one below 0', { action: 'throttle', fraction: -0.1, ...because }, 'GODWIT_INVALID_ARGUMENT', /got -0.1/],
    ['NaN', { action: 'throttle', fraction: Number.NaN, ...because }, 'GODWIT_INVALID_ARGUMENT', /got NaN/],
    ['no fraction', { action: 'throttle', ...because }, 'GODWIT_INVALID_ARGUMENT', /fraction .* got undefined/],
    ['a text', { action: 'bandwidth', bytesPerSecond: '1G', ...because }, 'GODWIT_INVALID_ARGUMENT', /got "1G"/],
    [
      'endless',
      { action: 'bandwidth', bytesPerSecond: Infinity, ...because },
      'GODWIT_INVALID_ARGUMENT',
      /got Infinity/,
    ],
    [
      'a limit',
      { action: 'switchover', downtimeLimitMs: -1, ...because },
      'GODWIT_INVALID_ARGUMENT',
      /downtimeLimitMs/,
    ],
    ['post-copy', { action: 'postcopy', ...because }, 'GODWIT_UNSUPPORTED', /decided "postcopy", but the guest cannot/],
  ])('%s: the guest runs on, and both sides hear the name of the policy', async (_, decision, code, message) => {
    const toy = begin(once(moment, decision, 'wrong'));
    const ends = await toy.settled();
    expectStayed(toy, ends, code);
    for (const side of [ends.sent, ends.received]) {
      expect(side).toMatchObject({ reason: { code, message: expect.stringMatching(message) } });
      expect(side).toMatchObject({ reason: { message: expect.stringMatching(/the policy "wrong"/) } });
    }
    expect(toy.source.memory.firstDifference(filled(new ToyVm(RAM)).memory)).toBeUndefined();
  });

  test('a policy that throws: the guest runs on', async () => {
    const toy = begin(function careless(input) {
      if (input.moment === moment && input.elapsedMs > 1000) throw new Error('no idea');
      return undefined;
    });
    const ends = await toy.settled();
    expectStayed(toy, ends, 'GODWIT_INTERNAL');
    expect(ends.sent).toMatchObject({
      reason: { message: expect.stringMatching(/the policy "careless" threw: no idea/) },
    });
  });

  test('a throttle where the VM has none: what to do is said', async () => {
    const toy = begin(once(moment, { action: 'throttle', fraction: 0.2, ...because }), {}, new ToyVm(RAM));
    const ends = await toy.settled();
    expectStayed(toy, ends, 'GODWIT_UNSUPPORTED');
    const message = /the policy "once" decided "throttle", but the VM has no `throttle`; let the VM implement it/;
    expect(ends.sent).toMatchObject({ reason: { message: expect.stringMatching(message) } });
  });

  test('to let go of a guest is possible everywhere', async () => {
    const toy = begin(once(moment, { action: 'throttle', fraction: 0, ...because }), {}, new ToyVm(RAM));
    expectMoved(toy, await toy.settled());
  });

  test('an abort', async () => {
    const toy = begin(once(moment, { action: 'abort', ...because }));
    expectStayed(toy, await toy.settled(), 'GODWIT_NOT_CONVERGING');
  });

  test('a throttle is in force from then on, and the records and events say so', async () => {
    const source = new ThrottledVm(RAM);
    const toy = begin(once(moment, { action: 'throttle', fraction: 0.5, ...because }), {}, source);
    void dirty(toy, 5);
    const ends = await toy.settled();
    expectMoved(toy, ends);
    expect([source.breaches, source.fraction]).toEqual([[], 0]);
    expect(source.calls[0]).toMatchObject({ fraction: 0.5, longestMs: moment === 'in-round' ? 100 : 101 });
    expect(toy.events.filter(({ type }) => type === 'throttle')).toEqual([
      { type: 'throttle', fraction: 0.5, previous: 0, reason: 'a test' },
      { type: 'throttle', fraction: 0, previous: 0.5, reason: 'the guest is paused' },
    ]);
    const rounds = toy.events.flatMap((event) => (event.type === 'round' ? [event.round] : []));
    const [first, second] = rounds;
    if (moment === 'round-end') expect(first?.throttle).toBe(0);
    else expect(first?.throttle).toBeGreaterThan(0.4);
    expect(first?.throttle).toBeLessThan(0.5);
    expect(second?.throttle).toBeCloseTo(0.5, 6);
    expect(rounds.at(-1)).toMatchObject({ phase: 'stop-and-copy', throttle: 0 });
    if (ends.sent.status === 'rejected') throw ends.sent.reason;
    const held = rounds.reduce((sum, { throttle, totalMs }) => sum + throttle * totalMs, 0);
    expect(ends.sent.value.throttledMs).toBeGreaterThanOrEqual(held - 1);
    expect(ends.sent.value.throttledMs).toBeLessThan(held + 100);
    const shown = toy.events.flatMap((event) => (event.type === 'progress' ? [event.progress.throttle] : []));
    expect(new Set(shown)).toEqual(new Set([0, 0.5]));
  });

  test('a bandwidth replaces the limit, until adjust() is given another', async () => {
    const limits: number[] = [];
    const decided = once(moment, { action: 'bandwidth', bytesPerSecond: 2 ** 18, ...because });
    const toy = slowly({
      bandwidthLimit: 2 ** 19,
      policy: (input) => {
        if (limits.at(-1) !== input.bandwidthLimit) limits.push(input.bandwidthLimit);
        return decided(input);
      },
    });
    void dirty(toy, 100);
    await toy.clock.sleep(1500);
    toy.migration.adjust({ downtimeLimitMs: 301 });
    await toy.clock.sleep(34_500);
    toy.migration.adjust({ bandwidthLimit: 2 ** 20 });
    expectMoved(toy, await toy.settled());
    const event = { type: 'bandwidth', bytesPerSecond: 2 ** 18, previous: 2 ** 19, reason: 'a test' };
    expect(limits.slice(0, 3)).toEqual([2 ** 19, 2 ** 18, 2 ** 20]);
    expect(toy.events.filter(({ type }) => type === 'bandwidth')).toEqual([event]);
    const [first] = toy.events.flatMap((event) => (event.type === 'round' ? [event.round] : []));
    // 16 MiB at 512 KiB/s are 32 s; at 256 KiB/s nearly twice as much.
    if (moment === 'round-end') expect(first?.totalMs).toBeLessThan(35_000);
    else expect(first?.totalMs).toBeGreaterThan(42_000);
  });

  test('force: the guest is paused, whatever is left', async () => {
    let asked = 0;
    const toy = begin((input) => {
      if (input.moment === moment && input.elapsedMs > 1000 && asked++ === 0) return { action: 'force', ...because };
      return input.outcome.round > 9 ? { action: 'abort', ...because } : undefined;
    });
    void dirty(toy, 2);
    expectMoved(toy, await toy.settled());
    expect(asked).toBeGreaterThanOrEqual(1);
    const begun = toy.events.find((event) => event.type === 'switchover-start');
    expect(begun).toMatchObject({ attempt: 1, limitMs: 0 });
    const last = toy.events.filter((event) => event.type === 'round').at(-2);
    expect(last).toMatchObject({ round: { decision: { action: 'force', reason: 'a test' } } });
  });
});

const wentBack = ({ events }: Toy) => events.filter(({ type }) => type === 'went-back');

describe('a switchover with a limit of its own', () => {
  /** A guest that writes `burst` pages just before it is paused, of which a page takes about 4 ms to send. */
  function bursting(burst: number, policy: ConvergencePolicy, options: MigrateOptions = {}): Toy {
    const source = filled(new ToyVm(RAM));
    source.onPause = () => {
      if (source.pauses === 1)
        for (let page = 0; page < burst; page++) source.deviceWrite(0, page * 4096, Uint8Array.of(7));
    };
    return slowly({ ...options, policy }, { source });
  }

  const own = (downtimeLimitMs: number): ConvergencePolicy =>
    firstOpinion(({ moment }) => {
      return moment === 'round-end' ? { action: 'switchover', downtimeLimitMs, ...because } : undefined;
    });

  test('above that of the migration: the attempt goes through, bounded by twice its own', async () => {
    const toy = bursting(100, own(2000), { downtimeLimitMs: 100 });
    expectMoved(toy, await toy.settled());
    expect(wentBack(toy)).toEqual([]);
    expect(toy.events.find(({ type }) => type === 'switchover-start')).toMatchObject({ limitMs: 4000 });
    expect(toy.events.filter(({ type }) => type === 'downtime-exceeded')).toEqual([]);
  });

  test('below that of the migration: what is left after the last harvest exceeds it, so the guest runs on', async () => {
    const toy = bursting(100, own(200), { downtimeLimitMs: 2000 });
    expectMoved(toy, await toy.settled());
    expect(wentBack(toy)).toMatchObject([
      { attempt: 1, limitMs: 500, reason: { code: 'GODWIT_SWITCHOVER_OVERRAN', message: /the limit is 200 ms/ } },
    ]);
  });

  test('pauseLimitMs is the bound of every attempt', async () => {
    const toy = bursting(0, own(2000), { pauseLimitMs: 700 });
    expectMoved(toy, await toy.settled());
    expect(toy.events.find(({ type }) => type === 'switchover-start')).toMatchObject({ limitMs: 700 });
  });

  test('the downtime is compared with it', async () => {
    const toy = bursting(0, own(1), { downtimeLimitMs: 1000 });
    toy.source.onPause = () => toy.clock.sleep(5);
    expectMoved(toy, await toy.settled());
    expect(toy.events.find(({ type }) => type === 'downtime-exceeded')).toMatchObject({ limitMs: 1 });
  });
});

describe('a switchover in the middle of a round', () => {
  test('stands without another opinion, if what is left fits', async () => {
    let ends = 0;
    const toy = slowly({
      downtimeLimitMs: 3000,
      policy: ({ moment, outcome, downtimeLimitMs }) => {
        if (moment === 'round-end') ends++;
        if (moment !== 'in-round' || outcome.linkBytesPerSecond === 0) return undefined;
        return outcome.predictedDowntimeMs <= downtimeLimitMs ? { action: 'switchover', ...because } : undefined;
      },
    });
    expectMoved(toy, await toy.settled());
    expect(ends).toBe(1);
  });

  test('falls where what is left does not fit', async () => {
    const ends: number[] = [];
    const toy = slowly({
      downtimeLimitMs: 100,
      policy: ({ moment, outcome, elapsedMs }) => {
        if (moment === 'round-end') ends.push(outcome.newlyDirtyPages);
        if (outcome.round >= 2 && moment === 'round-end') return { action: 'force', ...because };
        return moment === 'in-round' && elapsedMs > 1000 && outcome.round === 0
          ? { action: 'switchover', ...because }
          : undefined;
      },
    });
    expectMoved(toy, await toy.settled());
    // Nothing was written; what was left of the first round is owed.
    expect(ends[0]).toBeGreaterThan(PAGES / 2);
    expect(ends).toHaveLength(2);
    expect(wentBack(toy)).toEqual([]);
  });

  test('pages that are left are not taken for nothing that is dirty', async () => {
    const toy = slowly({
      downtimeLimitMs: 100,
      policy: firstOpinion(({ moment, elapsedMs, outcome }) => {
        return moment === 'in-round' && elapsedMs > 1000 && outcome.round === 0
          ? { action: 'switchover', ...because }
          : undefined;
      }, withinDowntimeLimit),
    });
    expectMoved(toy, await toy.settled());
    const last = toy.events.flatMap((event) => (event.type === 'round' ? [event.round] : [])).at(-1);
    expect(last?.phase).toBe('stop-and-copy');
    expect(last?.dirtyPages).toBeLessThan(30);
    expect(wentBack(toy)).toEqual([]);
  });
});

test('a switchover that was asked for waits for an obstacle, but the patience of the policy ends', async () => {
  const device = new FaultyDevice('gpu', Uint8Array.of(1));
  Object.assign(device, { switchoverBlocker: () => 'initial bytes' });
  const source = new ThrottledVm([{ id: 'ram', guestPhysicalAddress: 0, byteLength: 64 * 4096 }]);
  source.devices = [device];
  const toy = start({
    source,
    destination: new ToyVm([{ id: 'ram', guestPhysicalAddress: 0, byteLength: 64 * 4096 }], {
      running: false,
      devices: [new FaultyDevice('gpu')],
    }),
    migrate: { policy: roundCap(20, 'abort') },
  });
  toy.migration.switchOver();
  const ends = await toy.settled();
  expectStayed(toy, ends, 'GODWIT_NOT_CONVERGING');
  const last = toy.events.flatMap((event) => (event.type === 'round' ? [event.round] : [])).at(-1);
  expect(last).toMatchObject({ round: 20, decision: { action: 'abort' } });
});

test('between two rounds the policy sees the pages that the last harvest has found, and those that were written since', async () => {
  const clock = new VirtualClock();
  const destination = Object.assign(new ToyVm(RAM, { running: false }), { prepared: () => clock.sleep(6000) });
  const owed: { readonly known: number; readonly seen: number }[] = [];
  let known: number | undefined;
  const toy = slowly(
    {
      downtimeLimitMs: 1000,
      policy: (input) => {
        if (known !== undefined && input.moment === 'in-round')
          owed.push({ known, seen: input.outcome.newlyDirtyPages });
        return withinDowntimeLimit(input);
      },
    },
    { clock, destination, link: { bytesPerSecond: 16 * 2 ** 20 } },
  );
  toy.migration.subscribe((event) => {
    if (event.type === 'round') known = event.round.newlyDirtyPages;
    if (event.type === 'round-start') known = undefined;
  });
  void dirty(toy, 5);
  expectMoved(toy, await toy.settled());
  expect(owed.length).toBeGreaterThan(10);
  for (const { known: least, seen: now } of owed) {
    expect(now).toBeGreaterThanOrEqual(least);
    expect(now).toBeLessThan(least + 50);
  }
});

test('while a device that is asked what blocks it does not answer, the policy is asked all the same', async () => {
  const device = new FaultyDevice('gpu', Uint8Array.of(1));
  Object.assign(device, { switchoverBlocker: () => new Promise(() => {}) });
  const source = filled(new ThrottledVm(RAM));
  source.devices = [device];
  const asked: number[] = [];
  const toy = slowly(
    {
      timeBudgetMs: 3000,
      policy: (input) => {
        asked.push(seen(input).elapsedMs);
        if (input.elapsedMs >= 3000) return { action: 'abort', ...because };
        return input.elapsedMs > 1000 ? { action: 'switchover', ...because } : undefined;
      },
    },
    { source, destination: new ToyVm(RAM, { running: false, devices: [new FaultyDevice('gpu')] }) },
  );
  await expect(toy.migration.result).rejects.toMatchObject({ code: 'GODWIT_NOT_CONVERGING' });
  expect(toy.clock.now()).toBeLessThanOrEqual(3200);
  const { code } = await toy.settled();
  expect([code, toy.source.running]).toEqual(['GODWIT_NOT_CONVERGING', true]);
  for (let i = 1; i < asked.length; i++)
    expect((asked[i] as number) - (asked[i - 1] as number)).toBeLessThanOrEqual(100);
});

test('a policy that changes what it is given changes nothing', async () => {
  const toy = slowly({
    policy: (input) => {
      (input.history as unknown[]).length = 0;
      Object.assign(input, { moment: 'adjusted', elapsedMs: 0 });
      Object.assign(input.outcome, { newlyDirtyPages: 0, predictedDowntimeMs: 0 });
      return undefined;
    },
  });
  void toy.clock.sleep(17_000).then(() => toy.migration.switchOver({ force: true }));
  const ends = await toy.settled();
  expectMoved(toy, ends);
  if (ends.sent.status === 'rejected') throw ends.sent.reason;
  const [first] = ends.sent.value.rounds;
  expect([first?.round, first?.predictedDowntimeMs === 0]).toEqual([1, false]);
});

test('a harvest counts as soon as it has ended, also while a device takes its time to say how much it has', async () => {
  const clock = new VirtualClock();
  const source = filled(new ToyVm(RAM));
  const device = new FaultyDevice('gpu', Uint8Array.of(1));
  let asking = false;
  const stateBytes = async () => {
    asking = toy?.events.some(({ type }) => type === 'round-start') === true;
    await clock.sleep(350);
    asking = false;
    return 1;
  };
  Object.assign(device, { stateBytes });
  source.devices = [device];
  const seenBefore: number[] = [];
  const found: { readonly seen: readonly number[]; readonly pages: number }[] = [];
  const toy: Toy = slowly(
    {
      policy: ({ moment, outcome }) => {
        if (asking && moment === 'in-round') seenBefore.push(outcome.newlyDirtyPages);
        return outcome.round >= 4 && moment === 'round-end' ? { action: 'force', ...because } : undefined;
      },
    },
    {
      clock,
      source,
      destination: new ToyVm(RAM, { running: false, devices: [new FaultyDevice('gpu')] }),
      link: { bytesPerSecond: 16 * 2 ** 20 },
    },
  );
  toy.migration.subscribe((event) => {
    if (event.type === 'round') found.push({ seen: seenBefore.splice(0), pages: event.round.newlyDirtyPages });
  });
  void dirty(toy, 5);
  expectMoved(toy, await toy.settled());
  expect(found.flatMap(({ seen: pages }) => pages).length).toBeGreaterThan(8);
  for (const { seen: pages, pages: least } of found) {
    for (const now of pages) expect(now).toBeGreaterThanOrEqual(least);
  }
});

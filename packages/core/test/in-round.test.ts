import {
  type ConvergencePolicy,
  type Decision,
  firstOpinion,
  GodwitError,
  type MigrateOptions,
  type PolicyInput,
  roundCap,
  timeBudget,
  withinDowntimeLimit,
} from '@godwit/core';
import { FaultyDevice, type MemoryLinkOptions, memoryLink, ToyVm, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { expectMoved, expectStayed, random, start, type Toy } from './toy-migration.js';

const PAGE = 4096;
/** 16 MiB: 16 s over a link of 1 MiB/s. */
const PAGES = 4096;
const RAM = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: PAGES * PAGE }];
const LINK: MemoryLinkOptions = { bytesPerSecond: 2 ** 20 };

/** A guest whose every page has contents. */
function guest(): ToyVm {
  const vm = new ToyVm(RAM);
  for (let page = 0; page < PAGES; page++) vm.write(0, page * PAGE, new Uint8Array(PAGE).fill((page % 255) + 1));
  return vm;
}

function begin(migrate: MigrateOptions, link: MemoryLinkOptions = LINK): Toy {
  return start({ source: guest(), destination: new ToyVm(RAM, { running: false }), link, migrate });
}

/** Writes one page every `ms` milliseconds of virtual time, while the guest runs. */
async function dirty({ clock, source, migration }: Toy, ms: number): Promise<void> {
  for (let i = 0; migration.ownership !== 'released'; i++) {
    await clock.sleep(ms);
    if (['failed', 'cancelled', 'completed'].includes(migration.state)) return;
    if (source.running) source.write(0, ((i * 37) % PAGES) * PAGE, Uint8Array.of(i));
  }
}

/** Pages that were sent with the guest running, and with the guest paused. */
function pagesSent(toy: Toy): { readonly running: number; readonly paused: number } {
  let running = 0;
  let paused = 0;
  for (const event of toy.events) {
    if (event.type !== 'round') continue;
    if (event.round.phase === 'pre-copy') running += event.round.pages.raw;
    else paused += event.round.pages.raw;
  }
  return { running, paused };
}

describe('a policy is asked while a round is sent', () => {
  test('every 100 ms, with what is owed by then', async () => {
    const asked: PolicyInput[] = [];
    const toy = begin({
      policy: (input) => {
        asked.push(input);
        return withinDowntimeLimit(input);
      },
      downtimeLimitMs: 2000,
    });
    expectMoved(toy, await toy.settled());
    const inRound = asked.filter(({ moment }) => moment === 'in-round');
    expect(inRound.length).toBeGreaterThan(150);
    expect(
      inRound.every(
        ({ outcome }, i) => i === 0 || outcome.newlyDirtyPages <= (inRound[i - 1]?.outcome.newlyDirtyPages ?? 0),
      ),
    ).toBe(true);
    expect(inRound[0]?.outcome).toMatchObject({ round: 0, dirtyPages: 0 });
    expect(inRound[0]?.outcome.newlyDirtyPages).toBeGreaterThan(PAGES / 2);
    expect(inRound.at(-1)?.outcome.newlyDirtyPages).toBe(0);
  });

  test('the pages of the round that are left, and those that were dirtied since the last harvest', async () => {
    const asked: PolicyInput[] = [];
    const toy = begin({
      policy: (input) => {
        if (input.moment === 'in-round' && input.outcome.round === 1)
          asked.push({ ...input, history: [...input.history] });
        return input.outcome.round >= 2 ? { action: 'switchover', reason: 'enough' } : undefined;
      },
    });
    void dirty(toy, 5);
    expectMoved(toy, await toy.settled());
    const [first] = asked;
    const [one] = toy.events.flatMap((event) => (event.type === 'round' ? [event.round] : []));
    expect(first?.history).toHaveLength(1);
    // 200 pages a second, of which nothing was harvested in the 100 ms since.
    const left = (one?.newlyDirtyPages as number) + 20;
    expect(first?.outcome.newlyDirtyPages).toBeGreaterThan(0);
    expect(first?.outcome.newlyDirtyPages).toBeLessThanOrEqual(left + 1);
    expect(first?.outcome.predictedDowntimeMs).toBeGreaterThan(first?.outcome.prediction.ramMs as number);
  });

  test.each([
    ['a time budget that gives up', timeBudget(3000, 'abort'), 'GODWIT_NOT_CONVERGING', /the time budget of 3000 ms/],
    [
      'a policy that throws',
      function careless({ moment }) {
        if (moment === 'in-round') throw new Error('no idea');
        return undefined;
      } satisfies ConvergencePolicy,
      'GODWIT_INTERNAL',
      /the policy "careless" threw: no idea/,
    ],
    [
      'an action that is none',
      function typo({ elapsedMs }) {
        return elapsedMs > 1000 ? ({ action: 'switch-over', reason: 'x' } as unknown as Decision) : undefined;
      } satisfies ConvergencePolicy,
      'GODWIT_INVALID_ARGUMENT',
      /the policy "typo" returned {"action":"switch-over","reason":"x"}; a decision is/,
    ],
    [
      'a decision without a reason',
      function silent() {
        return { action: 'continue' } as unknown as Decision;
      } satisfies ConvergencePolicy,
      'GODWIT_INVALID_ARGUMENT',
      /the policy "silent" returned {"action":"continue"}/,
    ],
  ] as const)('%s ends the migration within 200 ms, and both sides say why', async (_, policy, code, message) => {
    const toy = begin({ policy });
    const ends = await toy.settled();
    expectStayed(toy, ends, code);
    expect(ends.sent).toMatchObject({ reason: { message: expect.stringMatching(message) } });
    expect(ends.received).toMatchObject({ reason: { code, message: expect.stringMatching(message) } });
    expect(toy.clock.now()).toBeLessThanOrEqual(3200);
  });

  test('a budget is kept while the link is away', async () => {
    const clock = new VirtualClock();
    const { connector, listener, cut } = memoryLink({ clock, ...LINK });
    let away = false;
    const toy = start({
      clock,
      source: guest(),
      destination: new ToyVm(RAM, { running: false }),
      listener,
      connector: {
        connect: async (request, signal) => {
          if (away) throw new GodwitError('GODWIT_CONNECT_FAILED', 'nobody is there');
          return connector.connect(request, signal);
        },
      },
      migrate: { policy: timeBudget(8000, 'abort') },
    });
    await clock.sleep(2000);
    away = true;
    cut();
    const { code } = await toy.settled();
    expect([code, toy.source.running, toy.destination.running]).toEqual(['GODWIT_NOT_CONVERGING', true, false]);
  });
});

describe('a round ends early for a switchover', () => {
  test('at any price: what the destination has is not sent again, and every byte is there', async () => {
    const toy = begin({ policy: timeBudget(3000, 'switchover'), verify: true });
    void dirty(toy, 2);
    expectMoved(toy, await toy.settled());
    const { running, paused } = pagesSent(toy);
    // 3 MiB and what was on its way, of 16.
    expect(running).toBeGreaterThanOrEqual(768);
    expect(running).toBeLessThanOrEqual(768 + 5 * 256);
    expect(running + paused).toBeLessThanOrEqual(PAGES + 1500);
    expect(toy.events.filter(({ type }) => type === 'went-back')).toEqual([]);
  });

  test('and what was not sent is still owed when the acknowledgement of the round is lost with the link', async () => {
    let lost = 0;
    const toy: Toy = begin(
      { policy: timeBudget(3000, 'switchover'), verify: true },
      {
        ...LINK,
        fromDestination: (frame, payload) => {
          if (frame.type !== 'roundAck' || lost++ > 0) return { frame, payload };
          toy.link.cut();
          return undefined;
        },
      },
    );
    void dirty(toy, 2);
    expectMoved(toy, await toy.settled());
    expect(lost).toBeGreaterThan(1);
    const { running, paused } = pagesSent(toy);
    expect(running + paused).toBeGreaterThanOrEqual(PAGES);
  });

  test('when a limit is raised, at once', async () => {
    const toy = begin({ downtimeLimitMs: 100 });
    await toy.clock.sleep(12_000);
    toy.migration.adjust({ downtimeLimitMs: 20_000 });
    const at = toy.clock.now();
    expectMoved(toy, await toy.settled());
    const paused = toy.events.findIndex((event) => event.type === 'ownership' && event.ownership === 'paused');
    expect(paused).toBeGreaterThan(0);
    const { paused: pages } = pagesSent(toy);
    expect(pages).toBeGreaterThan(0);
    // Nothing was sent twice: the rest of round 1 went out with the guest paused.
    expect(toy.clock.now() - at).toBeLessThan(4500);
  });

  test('a lower limit, and a raised one that does not suffice, let the round go on', async () => {
    const toy = begin({ downtimeLimitMs: 100 });
    await toy.clock.sleep(2000);
    toy.migration.adjust({ downtimeLimitMs: 50 });
    toy.migration.adjust({ downtimeLimitMs: 1000 });
    expectMoved(toy, await toy.settled());
    const [first] = toy.events.flatMap((event) => (event.type === 'round' ? [event.round] : []));
    expect(first?.pages.raw).toBe(PAGES);
  });

  test('when switchOver() is called, if what is left fits into the bound', async () => {
    const toy = begin({ pauseLimitMs: 6000, policy: roundCap(9, 'abort') });
    await toy.clock.sleep(2000);
    toy.migration.switchOver();
    await toy.clock.sleep(3000);
    // 11 MiB are left.
    expect(toy.source.running).toBe(true);
    const ends = await toy.settled();
    expectMoved(toy, ends);
    const { running, paused } = pagesSent(toy);
    expect(running).toBeGreaterThan(2048);
    expect(paused).toBeGreaterThan(512);
  });

  test('switchOver({ force }) ends it whatever is left', async () => {
    const toy = begin({});
    await toy.clock.sleep(1000);
    toy.migration.switchOver({ force: true });
    expectMoved(toy, await toy.settled());
    expect(pagesSent(toy).paused).toBeGreaterThan(2048);
  });

  test('and one that was called before the first round ends that at once', async () => {
    // All of it would be sent in 128 ms; the policy is asked after 100.
    const toy = begin({}, { bytesPerSecond: 2 ** 27 });
    toy.migration.switchOver({ force: true });
    expectMoved(toy, await toy.settled());
    // What was handed to the link before the request was looked at: a batch.
    expect(pagesSent(toy).running).toBeLessThanOrEqual(1024);
    expect(pagesSent(toy).paused).toBeGreaterThanOrEqual(3072);
  });

  test('not while a device says that it must not', async () => {
    const device = new FaultyDevice('gpu', Uint8Array.of(1));
    let blocked = true;
    Object.assign(device, { switchoverBlocker: () => (blocked ? 'initial bytes' : undefined) });
    const source = guest();
    source.devices = [device];
    const toy = start({
      source,
      destination: new ToyVm(RAM, { running: false, devices: [new FaultyDevice('gpu')] }),
      link: LINK,
      migrate: { policy: timeBudget(2000, 'switchover') },
    });
    await toy.clock.sleep(6000);
    expect([toy.source.running, toy.events.filter(({ type }) => type === 'round').length]).toEqual([true, 0]);
    blocked = false;
    // What is on its way arrives first: 4 MiB at most.
    await toy.clock.sleep(4300);
    expect(toy.source.running).toBe(false);
    expectMoved(toy, await toy.settled());
  });
});

test('rounds that end early at any moment, links that are cut meanwhile: every byte is there', async () => {
  for (let seed = 1; seed <= 10; seed++) {
    const next = random(seed);
    const chance = (percent: number) => next() % 100 < percent;
    let last = 0;
    const toy = begin(
      {
        verify: true,
        pageChannels: next() % 3,
        bandwidthLimit: chance(30) ? 2 ** 20 : 0,
        // A round is cut every few hundred milliseconds, and the policy then finds another one better.
        policy: ({ moment, outcome, elapsedMs }) => {
          if (outcome.round >= 12) return { action: 'switchover', force: true, reason: 'enough' };
          if (moment === 'round-end' || elapsedMs - last < 200 + (next() % 800)) return undefined;
          last = elapsedMs;
          return { action: 'switchover', reason: 'perhaps' };
        },
      },
      { bytesPerSecond: 4 * 2 ** 20, latencyMs: next() % 3 },
    );
    void dirty(toy, 1);
    while (chance(60)) {
      await toy.clock.sleep(next() % 1500);
      if (toy.migration.ownership !== 'running') break;
      toy.link.cut({ delivered: chance(50) });
    }
    const ends = await toy.settled();
    expect([seed, ends.code]).toEqual([seed, undefined]);
    expectMoved(toy, ends);
  }
});

test('firstOpinion asks each policy at every moment', () => {
  const moments: string[] = [];
  const policy = firstOpinion(({ moment }) => {
    moments.push(moment);
    return undefined;
  }, withinDowntimeLimit);
  const input = {
    outcome: { round: 1, predictedDowntimeMs: 1, newlyDirtyPages: 0, linkBytesPerSecond: 1e6 },
    history: [],
    downtimeLimitMs: 300,
    elapsedMs: 0,
    overruns: 0,
    unpreparedMs: 0,
  } as unknown as PolicyInput;
  expect(policy({ ...input, moment: 'in-round' })).toBeUndefined();
  expect(policy({ ...input, moment: 'adjusted' })).toMatchObject({ action: 'switchover' });
  expect(policy({ ...input, moment: 'round-end' })).toMatchObject({ action: 'switchover' });
  expect(moments).toEqual(['in-round', 'adjusted', 'round-end']);
});

import {
  type ConvergencePolicy,
  DirtyBitmaps,
  type Frame,
  firstOpinion,
  type MigrateOptions,
  roundCap,
  timeBudget,
  withinDowntimeLimit,
} from '@godwit/core';
import { engineParts, ManualTracker, ToyVm } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { expectMoved, random, start, type Toy } from './toy-migration.js';

const { HotPages } = engineParts;

const PAGE = 256;
const PAGES = 16_384;
const RAM = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: PAGES * PAGE }];
/** 10,000 pages a second. */
const LINK = 10_000 * PAGE;
const prior = { pauseMs: 0, harvestMs: 0, deviceMs: 0, loadMs: 0, roundTripMs: 0, resumeMs: 0 };

type Next = () => number;

/** Which page the guest writes next. */
const GUESTS: Record<string, (next: Next, count: number) => number> = {
  uniform: (next) => next() % PAGES,
  sweep: (_, count) => count % PAGES,
  'a hot part beside a sweep': (next, count) => (count % 2 === 0 ? next() % 400 : (count >> 1) % PAGES),
  'a hot part beside others': (next, count) => (count % 2 === 0 ? next() % 300 : next() % PAGES),
};

function begin(kind: string, ratio: number, migrate: MigrateOptions): Toy {
  const source = new ToyVm(RAM, { pageSize: PAGE });
  source.write(0, 0, new Uint8Array(PAGES * PAGE).fill(1));
  const toy = start({
    source,
    destination: new ToyVm(RAM, { pageSize: PAGE, running: false }),
    link: { bytesPerSecond: LINK, latencyMs: 0.2 },
    migrate: { prior, hotPagesLast: true, ...migrate },
  });
  const next = random(7);
  void (async () => {
    let owed = 0;
    let last = 0;
    let count = 0;
    while (!['completed', 'failed', 'cancelled'].includes(toy.migration.state)) {
      await toy.clock.sleep(1);
      const now = toy.clock.now();
      owed += ((now - last) / 1000) * ratio * 10_000;
      last = now;
      if (!source.running) owed = 0;
      for (; owed >= 1; owed--, count++) {
        const page = (GUESTS[kind] as (typeof GUESTS)[string])(next, count);
        source.write(0, page * PAGE + (next() % PAGE), Uint8Array.of(next()));
      }
    }
  })();
  return toy;
}

async function moved(kind: string, ratio: number, hotPagesLast: boolean) {
  const policy = firstOpinion(withinDowntimeLimit, timeBudget(12_000, 'switchover'));
  const toy = begin(kind, ratio, { hotPagesLast, policy, downtimeLimitMs: 100 });
  expectMoved(toy, await toy.settled());
  return toy.migration.result;
}

describe('pages that are dirtied in every round wait', () => {
  test.each([
    ['a hot part beside a sweep', 1.5],
    ['a hot part beside others', 1.5],
  ])('which lets a guest converge that did not: %s', async (kind, ratio) => {
    const [all, last] = [await moved(kind, ratio, false), await moved(kind, ratio, true)];
    expect(last.wireBytes).toBeLessThan(all.wireBytes * 0.6);
    expect(last.totalMs).toBeLessThan(all.totalMs * 0.6);
    expect(last.downtimeMs).toBeLessThan(110);
    const deferred = last.rounds.filter(({ deferredPages }) => deferredPages > 0);
    expect(deferred.length).toBeGreaterThan(1);
  });

  test.each([
    ['uniform', 0.9],
    ['sweep', 0.7],
    ['sweep', 0.9],
  ])('and costs nothing where there are none: %s at %d', async (kind, ratio) => {
    const [all, last] = [await moved(kind, ratio, false), await moved(kind, ratio, true)];
    expect(last.wireBytes).toBeLessThan(all.wireBytes * 1.02);
    expect(last.totalMs).toBeLessThan(all.totalMs * 1.02);
  });

  test('the records say how many, and add up', async () => {
    const { rounds } = await moved('a hot part beside others', 1.5, true);
    for (const [i, round] of rounds.entries()) {
      expect(round.pages.raw + round.pages.zero + round.pages.hole).toBe(round.dirtyPages);
      const before = rounds[i - 1];
      if (before?.phase === 'pre-copy' && round.phase === 'pre-copy') {
        expect(round.dirtyPages + round.deferredPages).toBe(before.newlyDirtyPages);
      }
      if (round.phase === 'pre-copy') expect(round.newlyDirtyPages).toBeGreaterThanOrEqual(round.deferredPages);
    }
  });
});

test('none is lost when rounds end early, links are cut and switchovers are given up', async () => {
  for (let seed = 1; seed <= 5; seed++) {
    const next = random(seed);
    const chance = (percent: number) => next() % 100 < percent;
    let last = 0;
    const toy = begin('a hot part beside others', 1.5, {
      pageChannels: next() % 3,
      downtimeLimitMs: 40,
      pauseLimitMs: chance(50) ? 25 : 500,
      policy: (input) => {
        const { moment, outcome, elapsedMs } = input;
        if (elapsedMs > 8000) return roundCap(1, 'switchover')({ ...input, overruns: 0 });
        if (moment === 'round-end' && outcome.round % 7 === 0) return { action: 'switchover', reason: 'perhaps' };
        if (moment === 'round-end' || elapsedMs - last < 300 + (next() % 900))
          return { action: 'continue', reason: 'on' };
        last = elapsedMs;
        return { action: 'switchover', reason: 'perhaps' };
      },
    });
    for (let cuts = 0; cuts < 4; cuts++) {
      await toy.clock.sleep(300 + (next() % 2000));
      if (toy.migration.ownership !== 'running') break;
      toy.link.cut({ delivered: chance(50) });
    }
    const ends = await toy.settled();
    expect([seed, ends.code]).toEqual([seed, undefined]);
    expectMoved(toy, ends);
  }
});

describe('HotPages', () => {
  test('are those that were dirtied in each of the last three rounds, of those that are owed', () => {
    const memory = {
      pageSize: PAGE,
      blocks: [{ ...RAM[0], id: 'ram', guestPhysicalAddress: 0, byteLength: 64 * PAGE, view: () => new Uint8Array() }],
    };
    const set = fc.uniqueArray(fc.nat(63), { maxLength: 40 });
    fc.assert(
      fc.property(fc.array(set, { maxLength: 6 }), set, (rounds, owed) => {
        const hotPages = new HotPages(memory);
        const bitmaps = (pages: readonly number[]) => {
          const made = new DirtyBitmaps(memory);
          for (const page of pages) made.at(0).set(page);
          return made;
        };
        for (const round of rounds) hotPages.add(bitmaps(round));
        const dirty = bitmaps(owed);
        const taken = hotPages.takeFrom(dirty, owed.length);
        const lastOnes = rounds.slice(-3);
        const hot = rounds.length < 3 ? [] : owed.filter((page) => lastOnes.every((round) => round.includes(page)));
        expect(taken?.pages ?? 0).toBe(hot.length);
        for (const page of owed) {
          expect(dirty.at(0).has(page)).toBe(!hot.includes(page));
          expect(taken?.bitmaps.at(0).has(page) ?? false).toBe(hot.includes(page));
        }
        expect(dirty.count() + (taken?.bitmaps.count() ?? 0)).toBe(owed.length);
      }),
    );
  });
});

test('a page that the guest no longer writes is sent in a later round, by a tracker with deferred re-arm too', async () => {
  const ram = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 256 * PAGE }];
  const source = new ToyVm(ram, { pageSize: PAGE });
  source.write(0, 0, new Uint8Array(256 * PAGE).fill(1));
  source.track(new ManualTracker(source.memory));
  // Pages 64 to 127 are written at the end of each of the first five rounds, and never again.
  const fromSource = (frame: Frame, payload: Uint8Array | undefined) => {
    if (frame.type === 'roundEnd' && frame.round <= 5) {
      source.write(0, 64 * PAGE, new Uint8Array(64 * PAGE).fill(frame.round + 1));
    }
    return { frame, payload };
  };
  const policy: ConvergencePolicy = ({ moment, outcome: { round } }) =>
    moment !== 'round-end' || round < 9 ? undefined : { action: 'switchover', reason: 'nine rounds were seen' };
  const destination = new ToyVm(ram, { pageSize: PAGE, running: false });
  const toy = start({ source, destination, link: { fromSource }, migrate: { policy, hotPagesLast: true } });
  expectMoved(toy, await toy.settled());
  const { rounds } = await toy.migration.result;
  const deferred = rounds.map(({ deferredPages }) => deferredPages);
  expect(Math.max(...deferred)).toBe(64);
  expect(deferred.slice(7)).toEqual(deferred.slice(7).map(() => 0));
  expect(rounds.at(-1)).toMatchObject({ phase: 'stop-and-copy', dirtyPages: 0 });
});

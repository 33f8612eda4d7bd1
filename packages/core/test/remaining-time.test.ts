import { describe, expect, test } from '@jest/globals';
import { LINK, PAGE, PAGES, type Told, told, type Writes, world } from './remaining-world.js';

/** Nothing but what the simulated link takes: the rest takes no time under a virtual clock. */
const prior = { pauseMs: 0, harvestMs: 0, deviceMs: 0, loadMs: 0, roundTripMs: 0, resumeMs: 0 };

/** 51 guests, of each kind at each ratio. */
const GUESTS = [0.3, 0.4, 0.5, 0.6, 0.7, 0.8].flatMap((ratio, i) =>
  (['uniform', 'sweep', 'hot'] as const).flatMap((kind, k) =>
    [8192, 5000, 6500].map((set, s): Writes => ({ kind, ratio, set, seed: 100 * i + 10 * k + s + 1 })),
  ),
);

describe('the time that is left, over guests that converge', () => {
  const all: (Told & { readonly guest: Writes })[] = [];

  test('is told within its range in nine of ten cases, and within a factor of two in nearly all', async () => {
    expect(GUESTS.length).toBeGreaterThanOrEqual(50);
    for (const [i, guest] of GUESTS.entries()) {
      const downtimeLimitMs = [30, 100, 300][i % 3] as number;
      const one = await told(world(guest, { downtimeLimitMs, progressIntervalMs: 50, prior }));
      all.push(...one.map((each) => ({ ...each, guest })));
    }
    const known = all.filter(({ progress }) => progress.remainingMs !== undefined);
    expect(known.length).toBeGreaterThan(all.length * 0.6);
    const inside = known.filter(({ progress: { remainingRangeMs }, actualMs }) => {
      const [low, high] = remainingRangeMs as readonly [number, number];
      return actualMs >= low && actualMs <= high;
    });
    expect(inside.length / known.length).toBeGreaterThanOrEqual(0.9);
    const long = known.filter(({ actualMs }) => actualMs >= 100);
    const wrong = long.filter(({ progress: { remainingMs = 0 }, actualMs }) => {
      const ratio = remainingMs / actualMs;
      return ratio > 2 || ratio < 0.5;
    });
    expect(wrong.length / long.length).toBeLessThan(0.04);
    for (const { progress } of known) {
      const [low, high] = progress.remainingRangeMs as readonly [number, number];
      expect(low).toBeLessThanOrEqual(progress.remainingMs as number);
      expect(high).toBeGreaterThanOrEqual(progress.remainingMs as number);
    }
  });

  test('is narrower than a factor of four for most of what is known', () => {
    const widths = all.flatMap(({ progress: { remainingRangeMs, state } }) =>
      remainingRangeMs === undefined || state !== 'active' ? [] : [remainingRangeMs[1] / remainingRangeMs[0]],
    );
    expect(widths.filter((width) => width <= 4).length).toBeGreaterThan(widths.length / 2);
  });
});

test('a bandwidth limit holds the rounds back, but not the pause', async () => {
  const guest: Writes = { kind: 'sweep', ratio: 0.1, set: PAGES, seed: 5 };
  const bandwidthLimit = LINK / 4;
  const all = await told(world(guest, { bandwidthLimit, downtimeLimitMs: 60, progressIntervalMs: 50, prior }));
  const late = all.filter(({ progress }) => progress.round >= 3 && progress.remainingMs !== undefined);
  expect(late.length).toBeGreaterThan(5);
  for (const { progress, actualMs } of late) {
    // The limit lets go 256 KiB at a time, which it takes 400 ms to pay for.
    if (actualMs < 400) continue;
    expect([progress.elapsedMs, (progress.remainingMs as number) / actualMs > 0.5]).toEqual([progress.elapsedMs, true]);
    expect([progress.elapsedMs, (progress.remainingMs as number) / actualMs < 2]).toEqual([progress.elapsedMs, true]);
  }
});

test('is unknown while a switchover waits for something else, and while the link is away', async () => {
  const toy = world({ kind: 'uniform', ratio: 0.1, set: 500, seed: 3 }, { downtimeLimitMs: 100, prior });
  let blocked = true;
  const device = {
    id: 'gpu',
    version: 1,
    async *save() {
      yield Uint8Array.of(1);
    },
    async load(state: AsyncIterable<Uint8Array>) {
      for await (const _ of state);
    },
    switchoverBlocker: () => (blocked ? 'initial bytes' : undefined),
  };
  (toy.source.devices as unknown[]).push(device);
  (toy.destination.devices as unknown[]).push(device);
  await toy.clock.sleep(4000);
  blocked = false;
  await told(toy);
  const waited = toy.events.flatMap((event) =>
    event.type === 'progress' && event.progress.round > 2 && event.progress.elapsedMs < 3900 ? [event.progress] : [],
  );
  expect(waited.length).toBeGreaterThan(10);
  expect(new Set(waited.map(({ remainingMs }) => remainingMs))).toEqual(new Set([undefined]));
  expect(new Set(waited.map(({ remainingRangeMs }) => remainingRangeMs))).toEqual(new Set([undefined]));
});

test('what is left of a pause is told while the guest is paused', async () => {
  const guest: Writes = { kind: 'uniform', ratio: 0.6, set: PAGES, seed: 9 };
  const all = await told(world(guest, { downtimeLimitMs: 300, progressIntervalMs: 10, prior }));
  const paused = all.filter(({ progress: { state } }) => state === 'device');
  expect(paused.length).toBeGreaterThan(5);
  for (const { progress, actualMs } of paused) {
    expect(Math.abs((progress.remainingMs as number) - actualMs)).toBeLessThan(60);
    const [low, high] = progress.remainingRangeMs as readonly [number, number];
    expect([progress.elapsedMs, low <= actualMs + 1, actualMs <= high]).toEqual([progress.elapsedMs, true, true]);
  }
  expect(PAGE * PAGES).toBeLessThan(LINK);
});

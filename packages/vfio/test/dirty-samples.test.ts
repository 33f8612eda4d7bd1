import { DirtyBitmaps, SoftwareTracker } from '@godwit/core';
import { BufferMemory } from '@godwit/core/testing';
import { type DirtySample, dirtyRate, dirtySamples, hotRanges } from '@godwit/vfio';
import { expect, test } from '@jest/globals';
import { firstValueFrom, from, lastValueFrom, map, take, tap, toArray } from 'rxjs';

const PAGE = 4096;

class WatchedTracker extends SoftwareTracker {
  readonly calls: string[] = [];
  stopped: () => void = () => {};

  override async start(): Promise<void> {
    this.calls.push('start');
    await super.start();
  }

  override async stop(): Promise<void> {
    this.calls.push('stop');
    await super.stop();
    this.stopped();
  }
}

function guest() {
  const memory = new BufferMemory([{ id: 'ram', guestPhysicalAddress: 0, byteLength: 1500 * PAGE }]);
  return { memory, tracker: new WatchedTracker(memory) };
}

test('subscribing starts the tracker, samples come, unsubscribing stops it', async () => {
  const { memory, tracker } = guest();
  const stopped = new Promise<void>((resolve) => {
    tracker.stopped = resolve;
  });
  let page = 0;
  const samples = dirtySamples(tracker, memory, { everyMs: 1 }).pipe(
    // Written after one sample, it is in the next.
    tap(() => tracker.mark(0, page++ * PAGE, PAGE)),
    map(({ bitmaps, dirtyPages, intervalMs }) => ({
      first: bitmaps.at(0).nextDirty(0),
      dirtyPages,
      late: intervalMs > 0,
    })),
    take(4),
    toArray(),
  );
  expect(await firstValueFrom(samples)).toEqual([
    { first: -1, dirtyPages: 0, late: true },
    { first: 0, dirtyPages: 1, late: true },
    { first: 1, dirtyPages: 1, late: true },
    { first: 2, dirtyPages: 1, late: true },
  ]);
  await stopped;
  expect(tracker.calls).toEqual(['start', 'stop']);
});

test('the bitmaps of a sample are left alone until the next one is out', async () => {
  const { memory, tracker } = guest();
  const seen: DirtySample[] = [];
  await lastValueFrom(
    dirtySamples(tracker, memory, { everyMs: 0 }).pipe(
      tap((sample) => seen.push(sample)),
      take(3),
    ),
  );
  expect(seen[0]?.bitmaps).not.toBe(seen[1]?.bitmaps);
  expect(seen[0]?.bitmaps).toBe(seen[2]?.bitmaps);
});

test('a tracker that fails ends the stream, and is stopped', async () => {
  const { memory, tracker } = guest();
  const stopped = new Promise<void>((resolve) => {
    tracker.stopped = resolve;
  });
  Object.assign(tracker, { harvest: async () => Promise.reject(new Error('boom')) });
  await expect(firstValueFrom(dirtySamples(tracker, memory, { everyMs: 0 }))).rejects.toThrow('boom');
  await stopped;
  expect(tracker.calls).toEqual(['start', 'stop']);
});

test('a tracker that does not start ends the stream', async () => {
  const { memory, tracker } = guest();
  Object.assign(tracker, { start: async () => Promise.reject(new Error('no such thing')) });
  await expect(firstValueFrom(dirtySamples(tracker, memory))).rejects.toThrow('no such thing');
});

function sampled(memory: BufferMemory, pages: readonly number[]): DirtySample {
  const bitmaps = new DirtyBitmaps(memory);
  for (const page of pages) bitmaps.at(0).set(page);
  return { bitmaps, dirtyPages: pages.length, intervalMs: 50 };
}

test('the rate is per second, and its average follows slowly', async () => {
  const { memory } = guest();
  const samples = from([sampled(memory, [1, 2]), sampled(memory, []), sampled(memory, [1])]);
  expect(await lastValueFrom(samples.pipe(dirtyRate(0.5), toArray()))).toEqual([
    { pagesPerSecond: 40, smoothedPagesPerSecond: 40 },
    { pagesPerSecond: 0, smoothedPagesPerSecond: 20 },
    { pagesPerSecond: 20, smoothedPagesPerSecond: 20 },
  ]);
});

test('the ranges that are written most come first, cool down, and drop out', async () => {
  const { memory } = guest();
  const burst = sampled(memory, [1, 2, 3, 600, 1499]);
  const quiet = Array.from({ length: 40 }, () => sampled(memory, [600]));
  const found = await lastValueFrom(from([burst, ...quiet]).pipe(hotRanges({ top: 2 }), toArray()));
  expect(found[0]?.map(({ firstPage, pageCount }) => [firstPage, pageCount])).toEqual([
    [0, 512],
    [512, 512],
  ]);
  expect(found.at(-1)?.map(({ firstPage }) => firstPage)).toEqual([512]);
  expect(found.at(-1)?.[0]?.heat).toBeCloseTo(1, 2);
});

test('an option that does not exist is refused, and text for a number is quoted', () => {
  const { memory, tracker } = guest();
  expect(() => dirtySamples(tracker, memory, { everyMS: 5 } as never)).toThrow('did you mean "everyMs"?');
  expect(() => dirtySamples(tracker, memory, { everyMs: '50' as never })).toThrow("got '50', a string");
  expect(() => hotRanges({ rangepages: 5 } as never)).toThrow('did you mean "rangePages"?');
  expect(tracker.calls).toEqual([]);
});

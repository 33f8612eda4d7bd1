import {
  type DirtyTracker,
  type GuestMemory,
  type PageBatch,
  type PageChannel,
  PageRunList,
  type ThreadRecipe,
} from '@godwit/core';
import { noTotals } from '@godwit/core/pages';
import { engineParts, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';

const { BandwidthLimit, PageQueue, PageTaker, RoundSender, TrackerUnion } = engineParts;

const PAGE = 4096;
const PAGES = 4096;
const RECIPE: ThreadRecipe = { module: 'none', make: 'none', options: undefined };

/** A tracker that leaves re-arming to the engine, on this thread only or on any. */
function rearming(recipe: boolean): DirtyTracker {
  const none = async () => {};
  return {
    ...{ name: 'manual', start: none, stop: none, harvest: none, rearmPages: () => {} },
    ...(recipe ? { rearmRecipe: RECIPE } : {}),
  };
}

interface World {
  readonly bytesPerSecond?: number;
  readonly trackers?: readonly DirtyTracker[];
  /** The channels that fail once they have sent a batch. */
  readonly failing?: readonly number[];
  readonly takes?: boolean;
}

/** Two channels that send a batch of 16 pages in a millisecond, and take pages by themselves. */
function world({ bytesPerSecond = 0, trackers = [], failing = [], takes = true }: World) {
  const clock = new VirtualClock();
  const memory: GuestMemory = {
    pageSize: PAGE,
    blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength: PAGES * PAGE, view: () => new Uint8Array() }],
  };
  const queue = PageQueue.create(memory);
  queue.owed.setAll();
  const counts = { taken: 0, handed: 0, ended: 0 };
  let wire = 0;
  const channels = [0, 1].map((index): PageChannel => {
    const taker = new PageTaker(queue, memory);
    const channel: PageChannel = {
      totals: noTotals(),
      get wireBytes() {
        return index === 0 ? wire : 0;
      },
      async send({ runs, holes }: PageBatch) {
        counts.handed += runs.pageCount + holes.pageCount;
        wire += runs.pageCount * PAGE;
        await clock.sleep(1);
      },
      endRound: async () => {
        counts.ended++;
      },
    };
    if (!takes) return channel;
    return {
      ...channel,
      totals: channel.totals,
      get wireBytes() {
        return channel.wireBytes;
      },
      async takePages({ pass }, onTaken) {
        taker.begin(pass);
        const batch = { blockIndex: 0, runs: new PageRunList(), holes: new PageRunList() };
        for (;;) {
          const pages = taker.take(batch, 16, 16);
          if (pages === 0) return;
          counts.taken += pages;
          wire += pages * PAGE;
          onTaken(pages);
          await clock.sleep(1);
          if (failing.includes(index)) throw new Error('the cable was cut');
        }
      },
    };
  });
  const limit = new BandwidthLimit(clock, bytesPerSecond, () => wire);
  let said = 0;
  const sender = new RoundSender({
    ...{ memory, clock, channels, queue, limit, maximumPayload: 16 * PAGE },
    tracker: new TrackerUnion(trackers),
    signal: new AbortController().signal,
    acknowledged: async () => counts.taken + counts.handed,
    onBatch: (pages) => {
      said += pages;
    },
    deviceBytes: () => 0,
  });
  return { clock, queue, sender, counts, limit, said: () => said };
}

describe('channels on threads of their own take pages by themselves', () => {
  test.each([
    ['where nothing limits the bandwidth', {}, true],
    ['with a tracker that any thread can re-arm', { trackers: [rearming(true)] }, true],
    ['with a guest that is paused, whatever the limit', { bytesPerSecond: 1e6 }, false],
  ] as const)('%s', async (_, parts, limited) => {
    const { sender, counts, queue, said } = world(parts);
    await sender.send(1, { limited });
    expect([counts.taken, counts.handed, counts.ended]).toEqual([PAGES, 0, 2]);
    expect([queue.count(), queue.taken.count(), said()]).toEqual([0, PAGES, PAGES]);
  });

  test.each([
    ['under a bandwidth limit', { bytesPerSecond: 50e6 }],
    ['with a tracker that only this thread can re-arm', { trackers: [rearming(true), rearming(false)] }],
    ['where one of them cannot', { takes: false }],
  ] as const)('and are handed them %s', async (_, parts) => {
    const { sender, counts, queue } = world(parts);
    await sender.send(1, { limited: true });
    expect([counts.taken, counts.handed]).toEqual([0, PAGES]);
    expect(queue.count()).toBe(0);
  });

  test('until a bandwidth limit is set in the middle of a round, which holds for the rest of it', async () => {
    const { sender, counts, limit, clock } = world({});
    void clock.sleep(20).then(() => {
      limit.bytesPerSecond = 10e6;
    });
    const { limitMs } = await sender.send(1, { limited: true });
    expect(counts.taken).toBeGreaterThan(100);
    expect(counts.handed).toBeGreaterThan(2000);
    expect(counts.taken + counts.handed).toBe(PAGES);
    expect(limitMs).toBeGreaterThan(500);
  });

  test('until the round is given up: what they have taken is acknowledged, the rest is owed', async () => {
    const { sender, counts, queue, clock } = world({});
    const enough = new AbortController();
    void clock.sleep(20).then(() => enough.abort(new Error('enough')));
    await expect(sender.send(1, { limited: true }, enough.signal)).rejects.toThrow('enough');
    expect(sender.hasEnded(1)).toBe(false);
    await sender.abandon(1);
    expect(sender.hasEnded(1)).toBe(true);
    expect(counts.taken).toBeGreaterThan(100);
    expect(counts.ended).toBe(2);
    expect([queue.taken.count(), queue.count()]).toEqual([counts.taken, PAGES - counts.taken]);
  });

  test('until one of them fails, and with it the round', async () => {
    const { sender, counts, queue } = world({ failing: [1] });
    await expect(sender.send(1, { limited: true })).rejects.toThrow('the cable was cut');
    await sender.idle();
    // The queue is closed: the other one has stopped.
    expect(counts.taken).toBeLessThan(PAGES / 2);
    expect(queue.taken.count() + queue.count()).toBe(PAGES);
  });
});

import type { Clock, GuestMemory, PageBatch, PageChannel } from '@godwit/core';
import { noTotals } from '@godwit/core/pages';
import { engineParts, VirtualClock } from '@godwit/core/testing';
import { expect, test } from '@jest/globals';

const { BandwidthLimit, PageQueue, RoundSender, TrackerUnion, LinkRate } = engineParts;

const PAGE = 4096;
const PAGES = 16 * 1024;

/**
 * One round, acknowledged after `ackMs`, over four channels, each of which looks at its pages for a microsecond a page, on its own thread or
 * all on one. A thread waits twice as long for a processor as it looks at pages; the main thread has done both for a second before.
 */
async function round(ownThread: boolean, ackMs = 1, known = true) {
  const clock: VirtualClock & Pick<Clock, 'processorTime'> = new VirtualClock();
  let here = { ranMs: 1000, waitedMs: 1000 };
  if (known) clock.processorTime = () => here;
  const memory: GuestMemory = {
    pageSize: PAGE,
    blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength: PAGES * PAGE, view: () => new Uint8Array() }],
  };
  const queue = PageQueue.create(memory);
  queue.owed.at(0).setRange(0, PAGES);
  let shared: Promise<void> = Promise.resolve();
  const channels = [0, 1, 2, 3].map((): PageChannel => {
    const totals = { ...noTotals(), ...(ownThread && { ranMs: 30, waitedMs: 70 }) };
    let own: Promise<void> = Promise.resolve();
    return {
      ...{ totals, ownThread, wireBytes: 0 },
      async send({ runs }: PageBatch) {
        const ms = runs.pageCount / 1000;
        const look = async () => {
          await clock.sleep(ms);
          totals.scanMs += ms;
          if (ownThread) {
            totals.ranMs += ms;
            totals.waitedMs += 2 * ms;
          } else here = { ranMs: here.ranMs + ms, waitedMs: here.waitedMs + 2 * ms };
        };
        if (ownThread) own = own.then(look);
        else shared = shared.then(look);
        await (ownThread ? own : shared);
      },
      endRound: async () => {},
    };
  });
  const sender = new RoundSender({
    ...{ memory, channels, clock, maximumPayload: 2 ** 22 },
    tracker: new TrackerUnion([]),
    queue,
    limit: new BandwidthLimit(clock, 0),
    signal: new AbortController().signal,
    acknowledged: async () => {
      await clock.sleep(ackMs);
      return PAGES;
    },
    deviceBytes: () => 0,
    onBatch: () => {},
  });
  return sender.send(1, { limited: true });
}

test('threads that look at pages at the same time do not add up: no more than the round', async () => {
  const { scanMs, totalMs, burstMs, burstWallMs } = await round(true);
  expect(scanMs).toBeLessThanOrEqual(totalMs);
  expect(scanMs).toBeCloseTo(PAGES / 4 / 1000, 0);
  // A round that lasts has no more of it.
  const longer = await round(true, 50);
  expect(longer.scanMs).toBeCloseTo(scanMs, 6);
  // The link was not waited for: nothing is learned of it.
  expect(new LinkRate().add(12e6, burstMs, burstWallMs)).toBe(false);
});

test('on one thread they do', async () => {
  const { scanMs, totalMs } = await round(false);
  expect(scanMs).toBeCloseTo(PAGES / 1000, 0);
  expect(scanMs).toBeLessThanOrEqual(totalMs);
});

test.each([true, false])(
  'the processor time of the threads that send is that of this round: own threads %s',
  async (own) => {
    const { burstProcessor } = await round(own);
    expect(burstProcessor?.threads).toBe(own ? 4 : 1);
    expect(burstProcessor?.ranMs).toBeCloseTo(PAGES / 1000, 6);
    expect(burstProcessor?.waitedMs).toBeCloseTo((2 * PAGES) / 1000, 6);
  },
);

test('the processor time is not known where the clock does not know it', async () => {
  expect((await round(true, 1, false)).burstProcessor).toBeUndefined();
});

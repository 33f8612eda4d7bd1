import type { GuestMemory, PageBatch, PageChannel } from '@godwit/core';
import { noTotals } from '@godwit/core/pages';
import { engineParts, VirtualClock } from '@godwit/core/testing';
import { expect, test } from '@jest/globals';

const { BandwidthLimit, PageQueue, RoundSender, TrackerUnion } = engineParts;

const PAGE = 4096;
const LIMIT = 10e6;
/** The limit's bytes of 50 ms. */
const BURST = 500e3;
/** Bytes per second of the link. */
const LINK = 100e6;

/** One round of so many pages over a link that is ten times as fast as the limit. */
async function round(pages: number, { adaptive = false, compressed = () => false as boolean } = {}) {
  const clock = new VirtualClock();
  const memory: GuestMemory = {
    pageSize: PAGE,
    blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength: pages * PAGE, view: () => new Uint8Array() }],
  };
  const queue = PageQueue.create(memory);
  queue.owed.at(0).setRange(0, pages);
  let sent = 0;
  let wire: Promise<void> = Promise.resolve();
  const totals = noTotals();
  const channel: PageChannel = {
    totals,
    get wireBytes() {
      return sent;
    },
    async send({ runs }: PageBatch) {
      const bytes = runs.pageCount * PAGE;
      sent += bytes;
      totals[compressed() ? 'compressed' : 'raw'] += runs.pageCount;
      wire = wire.then(() => clock.sleep((bytes / LINK) * 1000));
      await wire;
    },
    endRound: async () => {},
  };
  const sender = new RoundSender({
    ...{ memory, clock, channels: [channel] },
    // Batches of 16 pages: as small as the limit needs.
    maximumPayload: 16 * PAGE,
    tracker: new TrackerUnion([]),
    ...{ queue, adaptive },
    limit: new BandwidthLimit(clock, LIMIT, () => sent),
    signal: new AbortController().signal,
    acknowledged: () => wire.then(() => pages),
    deviceBytes: () => 0,
    onBatch: () => {},
  });
  return sender.send(1, { limited: true });
}

test.each([1000, 1001, 1017, 1100, 1187, 1234, 1300])(
  'a round of %i pages under a limit ends with a burst that shows the link',
  async (pages) => {
    const { burstBytes, burstMs, limitMs, totalMs } = await round(pages);
    expect(burstBytes).toBeGreaterThanOrEqual(BURST);
    expect(burstBytes).toBeLessThanOrEqual(2 * BURST + 2 * 16 * PAGE);
    expect((burstBytes / burstMs) * 1000).toBeGreaterThan(0.8 * LINK);
    // The limit was kept, but for two bursts.
    expect(limitMs).toBeGreaterThan(0);
    expect((pages * PAGE - 2 * BURST) / totalMs).toBeLessThan((LIMIT / 1000) * 1.01);
  },
);

test('it says of pages that were encoded for the limit which part of the last burst they were', async () => {
  const raw = await round(1000);
  expect([raw.encodedForLimit, raw.burstEncoded]).toEqual([false, 0]);
  let batch = 0;
  const half = await round(1000, { adaptive: true, compressed: () => batch++ % 2 === 0 });
  expect(half.encodedForLimit).toBe(true);
  expect(half.burstEncoded).toBeGreaterThan(0.4);
  expect(half.burstEncoded).toBeLessThan(0.6);
  // Those before the burst do not count.
  let sent = 0;
  const before = await round(1000, { adaptive: true, compressed: () => sent++ < 10 });
  expect(before.burstEncoded).toBe(0);
});

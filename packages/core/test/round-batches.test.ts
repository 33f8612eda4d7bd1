import type { GuestMemory, PageBatch, PageChannel } from '@godwit/core';
import { noTotals } from '@godwit/core/pages';
import { engineParts, VirtualClock } from '@godwit/core/testing';
import { expect, test } from '@jest/globals';

const { BandwidthLimit, PageQueue, RoundSender, TrackerUnion } = engineParts;

const PAGE = 4096;
const MIB_PAGES = 2 ** 20 / PAGE;

interface Sent {
  readonly channel: number;
  readonly pages: number[];
}

/** The batches of one round of 64 MiB, of which the `dirty` pages are sent over two channels that keep none for long. */
async function batchesOf(
  dirty: readonly number[],
  {
    batchBytes,
    bytesPerSecond = 0,
    maximumPayload = 2 ** 22,
  }: { batchBytes?: number; bytesPerSecond?: number; maximumPayload?: number },
): Promise<Sent[]> {
  const view = () => new Uint8Array();
  const memory: GuestMemory = {
    pageSize: PAGE,
    blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 64 * 2 ** 20, view }],
  };
  const queue = PageQueue.create(memory);
  for (const page of dirty) queue.owed.at(0).setRange(page, 1);
  const batches: Sent[] = [];
  const channels = [0, 1].map(
    (channel): PageChannel => ({
      ...(batchBytes === undefined ? {} : { batchBytes }),
      totals: noTotals(),
      wireBytes: 0,
      async send({ runs }: PageBatch) {
        batches.push({
          channel,
          pages: [...runs].flatMap((run) => Array.from({ length: run.pageCount }, (_, i) => run.firstPage + i)),
        });
      },
      endRound: async () => {},
    }),
  );
  const clock = new VirtualClock();
  const sender = new RoundSender({
    memory,
    channels,
    clock,
    maximumPayload,
    tracker: new TrackerUnion([]),
    queue,
    limit: new BandwidthLimit(clock, bytesPerSecond),
    signal: new AbortController().signal,
    acknowledged: async () => dirty.length,
    onBatch: () => {},
    deviceBytes: () => 0,
  });
  await sender.send(1, { limited: true });
  expect(batches.flatMap(({ pages }) => pages)).toEqual(dirty);
  return batches;
}

const all = Array.from({ length: 64 * MIB_PAGES }, (_, page) => page);
const largest = (batches: readonly Sent[]) => Math.max(...batches.map(({ pages }) => pages.length)) / MIB_PAGES;

test('a batch is a frame, unless the channel asks for more', async () => {
  expect(largest(await batchesOf(all, {}))).toBe(1);
  expect(largest(await batchesOf(all, { batchBytes: 4 * 2 ** 20 }))).toBe(4);
});

test('no frame is larger than the destination takes', async () => {
  expect(largest(await batchesOf(all, { maximumPayload: 2 ** 18 }))).toBe(1 / 4);
});

test('the channels share a round, however much they ask for', async () => {
  const batches = await batchesOf(all, { batchBytes: 2 ** 30 });
  expect(largest(batches)).toBe(8);
  expect(new Set(batches.map(({ channel }) => channel)).size).toBe(2);
  const few = all.slice(0, 2 * MIB_PAGES);
  expect(largest(await batchesOf(few, { batchBytes: 2 ** 30 }))).toBe(1);
});

test('a bandwidth limit is kept with small ones', async () => {
  expect(largest(await batchesOf(all, { batchBytes: 2 ** 30, bytesPerSecond: 2 ** 40 }))).toBe(1);
});

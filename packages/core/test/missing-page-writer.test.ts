import { type Compression, delta, type Frame, type FrameStream } from '@godwit/core';
import { DirtyBitmaps, MemoryWindows, PageBoard, PageWriter, readPageChannel } from '@godwit/core/pages';
import { BufferMemory, memoryLink, ToyFaultService, type ToyMissing, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';

const PAGE = 256;
const PAGES = 32;
/** Pages that are missing; the others are there. */
const MISSING = [2, 3, 4, 5, 9, 20];

/** "Compresses" by saying each byte once. */
const toy: Compression = {
  kind: 'compression',
  name: 'toy',
  expectedMsPerMiB: 1,
  compress: async (pages) => pages.subarray(0, 1),
  decompress: async (bytes, byteLength) => {
    const contents = new Uint8Array(byteLength);
    for (let i = 0; i < byteLength / PAGE; i++) contents.fill(bytes[i] as number, i * PAGE, (i + 1) * PAGE);
    return contents;
  },
};

async function writing() {
  const memory = new BufferMemory([{ id: 'ram', guestPhysicalAddress: 0, byteLength: PAGES * PAGE }], PAGE);
  memory.write(0, 0, new Uint8Array(PAGES * PAGE).fill(1));
  const contents = new DirtyBitmaps(memory);
  for (const page of MISSING) contents.at(0).set(page);
  const faults = new ToyFaultService();
  const missing = (await faults.serve({ memory, contents, others: 'stay', source: undefined })) as ToyMissing;
  const board = PageBoard.create(memory, 1, false);
  board.beginMissing();
  const sink = missing.sink();
  const writer = new PageWriter(0, new MemoryWindows(memory), board, new VirtualClock(), [delta(), toy], () => sink);
  const link = memoryLink();
  const request = { migrationId: '0'.repeat(32), pageChannels: 0, connection: 1 };
  const { control } = await link.connector.connect(request, new AbortController().signal);
  const { control: stream } = await link.listener.accept(new AbortController().signal);
  const ends: [number, number][] = [];
  const done = readPageChannel(stream, writer, (round, pages) => void ends.push([round, pages]));
  done.catch(() => {});
  const bytesOf = (page: number) => [...new Set(memory.blocks[0]?.view(page * PAGE, PAGE))];
  return { board, missing, control, done, ends, bytesOf };
}

type Sent = readonly [Frame, ...number[]];

async function send(control: FrameStream, ...frames: readonly Sent[]): Promise<void> {
  for (const [frame, ...fills] of frames) {
    const raw = frame.type === 'pages';
    const payload = raw
      ? fills.map((value) => new Uint8Array(PAGE).fill(value))
      : fills.length > 0
        ? [Uint8Array.from(fills)]
        : undefined;
    await control.write(frame, payload);
  }
}

const frame = (type: string, runs: readonly number[], more: object = {}): Frame =>
  ({ type, round: 1, block: 0, runs, ...more }) as unknown as Frame;

describe('pages that come while the guest runs without them', () => {
  test('are put where they are missing, in every kind but one, and dropped elsewhere', async () => {
    const { board, missing, control, ends, bytesOf, done } = await writing();
    await send(
      control,
      [frame('pages', [2, 2, 7, 1]), 22, 33, 77],
      [frame('zeroPages', [4, 1, 8, 1])],
      [frame('compressedPages', [5, 1, 9, 2], { encoding: 'toy' }), 55, 99, 110],
      // The guest has page 2 by now, and what it has written there is its own.
      [frame('pages', [2, 1]), 200],
      [{ type: 'roundEnd', round: 1, pages: 9 }],
    );
    while (ends.length === 0) await new Promise((resolve) => setImmediate(resolve));
    expect([2, 3, 4, 5, 9].map(bytesOf)).toEqual([[22], [33], [0], [55], [99]]);
    // Those were there.
    expect([7, 8, 10].map(bytesOf)).toEqual([[1], [1], [1]]);
    expect(bytesOf(20)).not.toEqual([1]);
    expect(ends).toEqual([[1, 9]]);
    expect(missing.status()).toMatchObject({ pagesMissing: 1, duplicatePages: 4 });
    expect(board.totals()).toEqual({ raw: 4, zero: 2, delta: 0, compressed: 3 });
    void control.close();
    await expect(done).rejects.toMatchObject({ code: 'GODWIT_LINK_LOST' });
  });

  test.each<readonly [string, Sent, string]>([
    ['a delta: there is nothing that it could be against', [frame('deltaPages', [2, 1]), 0], 'GODWIT_PROTOCOL'],
    ['a page of an answer', [frame('pages', [2, 1], { round: 0 }), 22], 'GODWIT_PROTOCOL'],
    ['a page of another round', [frame('pages', [2, 1], { round: 2 }), 22], 'GODWIT_PROTOCOL'],
    ['a page behind the end', [frame('pages', [PAGES, 1]), 22], 'GODWIT_OUT_OF_RANGE'],
    ['zero pages behind the end', [frame('zeroPages', [PAGES - 1, 2])], 'GODWIT_OUT_OF_RANGE'],
    ['a page of no block', [frame('pages', [2, 1], { block: 1 }), 22], 'GODWIT_OUT_OF_RANGE'],
    ['half of what it says', [frame('pages', [2, 2]), 22], 'GODWIT_PROTOCOL'],
    [
      'an encoding that was not agreed on',
      [frame('compressedPages', [2, 1], { encoding: 'zstd' }), 1],
      'GODWIT_PROTOCOL',
    ],
    ['a count that is not right', [{ type: 'roundEnd', round: 1, pages: 1 }], 'GODWIT_PROTOCOL'],
    ['a request', [{ type: 'requestPages', block: 0, page: 2, pages: 1 }], 'GODWIT_PROTOCOL'],
  ])('are refused, and none is put: %s', async (_name, sent, code) => {
    const { missing, control, done } = await writing();
    await send(control, sent);
    await expect(done).rejects.toMatchObject({ code });
    expect(missing.status()).toMatchObject({ pagesMissing: MISSING.length, duplicatePages: 0 });
  });
});

import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { DirtyBitmap, DirtyBitmaps, type GuestMemory } from '@godwit/core';
import { PageBoard } from '@godwit/core/pages';
import { expect, jest, test } from '@jest/globals';

jest.setTimeout(60_000);

test('threads that set bits of the same words lose none', async () => {
  const pages = 2 ** 22;
  const step = 2;
  const storage = new SharedArrayBuffer(DirtyBitmap.storageBytes(pages));
  const start = new Int32Array(new SharedArrayBuffer(4));
  const workers = Array.from(
    { length: step },
    (_, first) =>
      new Worker(new URL('./bit-setter.js', import.meta.url), {
        workerData: { storage, start, pages, first, step },
        execArgv: [],
      }),
  );
  const ended = workers.map((worker) => once(worker, 'exit'));
  await Promise.all(workers.map((worker) => once(worker, 'message')));
  Atomics.store(start, 0, 1);
  Atomics.notify(start, 0);
  await Promise.all(ended);
  expect(new DirtyBitmap(pages, storage).count()).toBe(pages);
});

test('who joins a board sees what all others do', () => {
  const block = { id: 'ram', guestPhysicalAddress: 0, byteLength: 2 ** 20, view: () => new Uint8Array() };
  const memory: GuestMemory = { pageSize: 4096, blocks: [block] };
  const board = PageBoard.create(memory, 2, true);
  if (board.buffers === undefined) throw new Error('the board is not shared');
  const joined = PageBoard.join(memory, board.buffers);
  joined.touched.at(0).setRange(7, 50);
  joined.count(1, 'raw', 50);
  expect(board.touched.at(0).count()).toBe(50);
  expect(board.totals()).toMatchObject({ raw: 50, zero: 0 });
  expect([joined.round, joined.admit(), board.seal(), joined.admit(), joined.sealed]).toEqual([
    1,
    true,
    false,
    false,
    true,
  ]);
  board.nextRound();
  board.stop();
  expect([joined.round, joined.stopped]).toEqual([2, true]);
  expect(new DirtyBitmaps(memory).at(0).isEmpty()).toBe(true);
});

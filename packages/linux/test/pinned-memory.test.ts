import { once } from 'node:events';
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { attachGuestMemory, createGuestMemory, type MappedRamBlock, pinHostMemory } from '@godwit/linux';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { FixedBuffer } from './fixed-buffers.js';
import { testWhen } from './when-usable.js';

const PAGE = 4096;
/** Pins are counted for 2 MiB at a time. */
const CHUNK_PAGES = 512;
const PAGES = 4 * CHUNK_PAGES;

let memory: ReturnType<typeof createGuestMemory>;
let block: MappedRamBlock;
beforeEach(() => {
  memory = createGuestMemory({ blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength: PAGES * PAGE }] });
  block = memory.blocks[0] as MappedRamBlock;
  block.view(0, PAGES * PAGE).fill(7);
});
afterEach(() => memory.close());

const first = { firstPage: 3, pageCount: 40 };
const elsewhere = { firstPage: 2 * CHUNK_PAGES, pageCount: 40 };
const byteAt = (page: number) => block.view(page * PAGE, 1)[0];

describe('a pin', () => {
  test('forbids discarding what it covers, and nothing far from it, until it is undone, once', () => {
    const unpin = block.pin(first);
    const again = block.pin({ firstPage: 10, pageCount: 1 });
    expect(block.discard(first)).toBe(false);
    expect(byteAt(3)).toBe(7);
    expect(block.discard(elsewhere)).toBe(true);
    expect(byteAt(elsewhere.firstPage)).toBe(0);
    unpin();
    unpin();
    expect(block.discard(first)).toBe(false);
    again();
    expect(block.discard(first)).toBe(true);
    expect(byteAt(3)).toBe(0);
  });

  test('by an address of this process, over the ends of blocks and beyond them', () => {
    const unpin = pinHostMemory(block.hostAddress - BigInt(PAGE), 2 * PAGE);
    expect(block.discard({ firstPage: 0, pageCount: 16 })).toBe(false);
    expect(block.discard(elsewhere)).toBe(true);
    unpin();
    expect(block.discard({ firstPage: 0, pageCount: 16 })).toBe(true);
    pinHostMemory(4096n, PAGE)();
  });

  test('holds for a second mapping of the file as well', () => {
    const attached = attachGuestMemory({
      blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength: PAGES * PAGE, fd: block.fd as number }],
    });
    const unpin = pinHostMemory(block.hostAddress, PAGE);
    expect(attached.blocks[0]?.discard(first)).toBe(false);
    unpin();
    expect(attached.blocks[0]?.discard(first)).toBe(true);
    attached.close();
  });

  test('holds in other threads', async () => {
    const worker = new Worker(new URL('./workers/discarder.js', import.meta.url), { workerData: memory.attachment() });
    const discards = async () => {
      worker.postMessage(first);
      return (await once(worker, 'message'))[0];
    };
    const unpin = block.pin(first);
    expect(await discards()).toBe(false);
    unpin();
    expect(await discards()).toBe(true);
    await worker.terminate();
  });
});

describe('io_uring has pinned a buffer for long', () => {
  let folder: string;
  let file: number;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'godwit-'));
    writeFileSync(join(folder, 'data'), 'by DMA');
    file = openSync(join(folder, 'data'), 'r');
  });
  afterEach(() => {
    closeSync(file);
    rmSync(folder, { recursive: true });
  });
  const text = (page: number) => Buffer.from(block.view(page * PAGE, 6)).toString('latin1');

  testWhen(FixedBuffer.support())(
    'nobody has said so, and nothing is discarded all the same: its writes arrive',
    () => {
      const device = new FixedBuffer(block.hostAddress, PAGES * PAGE);
      expect(block.discard(first)).toBe(false);
      expect(block.discard(elsewhere)).toBe(false);
      device.write(5 * PAGE, file, 6);
      expect(text(5)).toBe('by DMA');
      device.close();
      expect(block.discard(first)).toBe(true);
    },
  );
});

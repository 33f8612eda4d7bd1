import { readFileSync, writeFileSync } from 'node:fs';
import { DirtyBitmaps } from '@godwit/core';
import {
  AccessTracker,
  createGuestMemory,
  type GuestMemoryOptions,
  type MappedGuestMemory,
  type MappedRamBlock,
  PagemapTracker,
} from '@godwit/linux';
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { PAGE } from '../guest/page-memory.js';

/** What read-write protection sees, page by page: 1,000 pages that are read, 500 that are written, and no other. */

const MIB = 2 ** 20;
const BYTES = 64 * MIB;
const POOL = '/proc/sys/vm/nr_hugepages';
/** Every sixteenth page is read, and the eighth behind each of the first 500 is written. */
const READ = Array.from({ length: 1000 }, (_, i) => i * 16);
const WRITTEN = Array.from({ length: 500 }, (_, i) => i * 16 + 8);
const HUGE = 2 * MIB;

/** Where a loop puts what it has read, so that it is not left out. */
let sum = 0;
let memory: MappedGuestMemory;
let tracker: AccessTracker;
let pool: string;

beforeAll(() => {
  pool = readFileSync(POOL, 'utf8');
});
afterEach(async () => {
  await tracker.stop();
  memory.close();
});
afterAll(() => writeFileSync(POOL, pool));

async function tracked(options: Omit<GuestMemoryOptions, 'blocks'>): Promise<Uint8Array> {
  memory = createGuestMemory({ ...options, blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength: BYTES }] });
  tracker = AccessTracker.forMemory(memory);
  const bytes = (memory.blocks[0] as MappedRamBlock).view(0, BYTES);
  bytes.fill(1);
  await tracker.start();
  return bytes;
}

async function sample(): Promise<Set<number>> {
  const found = new DirtyBitmaps(memory);
  await tracker.sample(found);
  return pagesOf(found);
}

/** The pages of the first block. */
function pagesOf(bitmaps: DirtyBitmaps): Set<number> {
  const bitmap = bitmaps.at(0);
  return new Set(Array.from({ length: bitmap.pageCount }, (_, page) => page).filter((page) => bitmap.has(page)));
}

/** Fails with the number of pages that are there and should not be, or the other way round, and the first of them. */
function expectPages(seen: ReadonlySet<number>, expected: readonly number[]): void {
  const wanted = new Set(expected);
  const few = (pages: number[]) => ({ count: pages.length, first: pages.slice(0, 5) });
  const missing = few(expected.filter((page) => !seen.has(page)));
  const others = few([...seen].filter((page) => !wanted.has(page)));
  expect({ missing, others }).toEqual({ missing: few([]), others: few([]) });
}

function read(bytes: Uint8Array, pages: readonly number[]): void {
  for (const page of pages) sum += bytes[page * PAGE + 100] as number;
}

function write(bytes: Uint8Array, pages: readonly number[]): void {
  for (const page of pages) bytes[page * PAGE + 100] = 2;
}

const KINDS: readonly [string, Omit<GuestMemoryOptions, 'blocks'>][] = [
  ['a memory file', {}],
  ['anonymous memory', { backing: 'anonymous' }],
];

describe.each(KINDS)('%s', (_name, options) => {
  test('1,000 pages read and 500 written: exactly those, once', async () => {
    const bytes = await tracked(options);
    expectPages(await sample(), []);
    read(bytes, READ);
    write(bytes, WRITTEN);
    expectPages(await sample(), [...READ, ...WRITTEN]);
    expectPages(await sample(), []);
  });

  test('a page is seen again after each sample', async () => {
    const bytes = await tracked(options);
    for (let i = 0; i < 3; i++) {
      read(bytes, READ.slice(i));
      expectPages(await sample(), READ.slice(i));
    }
    expect(sum).toBeGreaterThan(0);
  });
});

const HUGE_KINDS: readonly [string, Omit<GuestMemoryOptions, 'blocks'>][] = [
  ['reserved', { hugePages: '2MiB' }],
  ['transparent', { backing: 'anonymous', hugePages: 'transparent' }],
];

test.each(HUGE_KINDS)('%s huge pages: those of which a byte is read or written, each whole', async (_name, options) => {
  writeFileSync(POOL, String(BYTES / HUGE));
  const bytes = await tracked(options);
  const pages = HUGE / PAGE;
  read(
    bytes,
    [3, 4, 7].map((huge) => huge * pages + 5),
  );
  write(
    bytes,
    [8, 20].map((huge) => huge * pages + 17),
  );
  const whole = [3, 4, 7, 8, 20].flatMap((huge) => Array.from({ length: pages }, (_, i) => huge * pages + i));
  expectPages(await sample(), whole);
  expectPages(await sample(), []);
});

test('what was not mapped yet is seen once it is, and a hole again when it is filled', async () => {
  memory = createGuestMemory({ blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 64 * PAGE }] });
  tracker = AccessTracker.forMemory(memory);
  const block = memory.blocks[0] as MappedRamBlock;
  const bytes = block.view(0, 64 * PAGE);
  bytes.fill(1, 0, 32 * PAGE);
  await tracker.start();
  write(bytes, [40]);
  expectPages(await sample(), [40]);
  expect(block.discard({ firstPage: 0, pageCount: 1 })).toBe(true);
  write(bytes, [0]);
  expectPages(await sample(), [0]);
});

test('a pagemap tracker on the same memory is refused, and works once this one has stopped', async () => {
  const bytes = await tracked({});
  const dirty = PagemapTracker.forMemory(memory);
  await expect(dirty.start()).rejects.toMatchObject({ code: 'GODWIT_UNSUPPORTED' });
  await tracker.stop();
  await dirty.start();
  const into = new DirtyBitmaps(memory);
  await dirty.harvest(into);
  into.clearAll();
  read(bytes, READ);
  write(bytes, WRITTEN);
  await dirty.harvest(into);
  expectPages(pagesOf(into), WRITTEN);
  await dirty.stop();
});

import { readFileSync, writeFileSync } from 'node:fs';
import { DirtyBitmaps, GodwitError, type MissingMemory, type PagesToServe, receive } from '@godwit/core';
import { checkSnapshot, file, listenOn } from '@godwit/transport';
import { afterAll, expect, test } from '@jest/globals';
import { type Forged, forge, readMetadata, readSnapshot, sha256 } from './snapshot-forge.js';
import { BLOCKS, fill, machine, restore, save, snapshotFolder, statesOf } from './snapshot-machine.js';

const { newPath, close } = await snapshotFolder();
afterAll(close);

const SAVED = fill(machine());
/** Some pages that have contents, one that has none, and the last one. */
const NEEDED: readonly (readonly number[])[] = [
  [1, 2, 100, 299],
  [0, 69],
];
const WORKING_SET = new DirtyBitmaps(SAVED.memory);
for (const [block, pages] of NEEDED.entries()) for (const page of pages) WORKING_SET.at(block).set(page);
const PATH = newPath();
await save(SAVED, PATH, { workingSet: WORKING_SET });
const WHOLE = readFileSync(PATH);
const METADATA = readMetadata(WHOLE);
const PLACE = METADATA.workingSet as NonNullable<Forged['workingSet']>;

function setIn(bytes: Buffer): number[] {
  return Array.from({ length: bytes.length * 8 }, (_, bit) => bit).filter(
    (bit) => ((bytes[bit >> 3] as number) & (1 << (bit % 8))) !== 0,
  );
}

function written(bytes: Buffer): string {
  const path = newPath();
  writeFileSync(path, bytes);
  return path;
}

/** What a restore at once asks the fault service for; the service refuses, which ends the restore. */
async function asked(
  path: string,
): Promise<{ readonly request: PagesToServe | undefined; readonly error: GodwitError }> {
  let request: PagesToServe | undefined;
  const links = await listenOn(file({ path }));
  const serve = (given: PagesToServe): Promise<MissingMemory> => {
    request = given;
    return Promise.reject(new GodwitError('GODWIT_BLOCKED', 'only asked'));
  };
  const faults = { ready: async () => {}, blockers: () => [], serve };
  const vm = machine({ empty: true });
  try {
    await receive(links, { prepare: () => vm, run: 'at once', faults }).result;
  } catch (error) {
    if (GodwitError.is(error)) return { request, error };
    throw error;
  } finally {
    await links.close();
  }
  throw new Error('nothing was refused');
}

test('the snapshot has it where the format says, and a reader that knows nothing of it finds the guest', async () => {
  const end = PLACE.offset + 40 + 16;
  const bytes = WHOLE.subarray(PLACE.offset, end);
  expect(sha256(bytes)).toEqual(PLACE.sha256);
  expect(end).toBe(METADATA.indexOffset);
  expect([setIn(bytes.subarray(0, 40)), setIn(bytes.subarray(40))].map((pages) => pages.map(Number))).toEqual(NEEDED);
  const { ram } = readSnapshot(WHOLE);
  for (const [block, { byteLength }] of BLOCKS.entries()) {
    expect(
      Buffer.compare(ram[block] as Buffer, Buffer.from(SAVED.memory.blocks[block]?.view(0, byteLength) as Uint8Array)),
    ).toBe(0);
  }
  const older = machine({ empty: true });
  await restore(older, written(forge(WHOLE, { ...METADATA, workingSet: undefined })));
  expect(statesOf(older)).toEqual(statesOf(SAVED));
});

test('a restore at once loads it first; one without has no order', async () => {
  const { request } = await asked(PATH);
  for (const [block, pages] of NEEDED.entries()) {
    const found = request?.first?.at(block);
    const all = Array.from({ length: found?.pageCount ?? 0 }, (_, page) => page);
    expect(all.filter((page) => found?.has(page))).toEqual(pages);
  }
  const plain = newPath();
  await save(fill(machine()), plain);
  expect(readMetadata(readFileSync(plain)).workingSet).toBeUndefined();
  expect((await asked(plain)).request).toMatchObject({ first: undefined });
});

test('a damaged one is noticed before anything runs, by a check, and not by a restore that does not use it', async () => {
  const bytes = Buffer.from(WHOLE);
  bytes[PLACE.offset + 3] = (bytes[PLACE.offset + 3] as number) ^ 4;
  const path = written(bytes);
  const { request, error } = await asked(path);
  expect([request, error.code, error.message]).toEqual([
    undefined,
    'GODWIT_BAD_STREAM',
    expect.stringMatching(/the bitmaps of its working set do not match their checksum/),
  ]);
  const damages: unknown[] = [];
  for await (const item of checkSnapshot(path)) {
    if (item.type === 'damage') damages.push([item.offset, item.fatal, item.error.code]);
  }
  expect(damages).toEqual([[PLACE.offset, false, 'GODWIT_BAD_STREAM']]);
  await restore(machine({ empty: true }), path);
});

test.each<readonly [string, number]>([
  ['over the devices', (METADATA.pieces[0] as Forged['pieces'][number])[1]],
  ['over the index', METADATA.indexOffset - 8],
  ['beyond the file', WHOLE.length],
  ['before everything', 0],
])('one that is said to lie %s is refused', async (_, offset) => {
  const forged = { ...METADATA, workingSet: { offset, sha256: PLACE.sha256 } };
  const { error } = await asked(written(forge(WHOLE, forged)));
  expect([error.code, error.message]).toEqual([
    'GODWIT_BAD_STREAM',
    expect.stringMatching(/makes no sense: the (working set|index) at/),
  ]);
});

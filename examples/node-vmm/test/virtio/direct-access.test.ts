import { randomBytes } from 'node:crypto';
import {
  closeSync,
  constants,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { addressOf } from '@godwit/linux/unstable/libc';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { alignedBytes, reopenDirect } from '../../dist/virtio/direct-access.js';
import { DiskFile } from '../../dist/virtio/disk-file.js';
import { testUnless } from '../machine-kinds.js';

const SECTOR = 512;
const SECTORS = 4096;
let folder: string;
let path: string;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'direct-access-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function newDisk(): Uint8Array {
  path = join(folder, 'disk.img');
  const bytes = randomBytes(SECTORS * SECTOR);
  writeFileSync(path, bytes);
  return Uint8Array.from(bytes);
}

/** Why files in the folder for temporary files have no direct access, if they have not. */
function noDirectAccess(): string | undefined {
  const probe = mkdtempSync(join(tmpdir(), 'direct-access-'));
  try {
    writeFileSync(join(probe, 'file'), 'x');
    closeSync(openSync(join(probe, 'file'), constants.O_RDONLY | constants.O_DIRECT));
    return undefined;
  } catch (error) {
    return `files in ${tmpdir()} cannot be opened with O_DIRECT: ${String(error)}`;
  } finally {
    rmSync(probe, { recursive: true });
  }
}
const testDirect = testUnless(noDirectAccess());

/** The flags with which this process has the file open, each time. */
function flagsOf(file: string): number[] {
  return readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      if (readlinkSync(`/proc/self/fd/${fd}`) !== file) return [];
      return [Number.parseInt(/^flags:\s+(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1] ?? '', 8)];
    } catch {
      return [];
    }
  });
}

test.each([1, SECTOR, 4096, 70_000])('%i bytes begin at a page', (byteLength) => {
  for (let i = 0; i < 20; i++) {
    const bytes = alignedBytes(byteLength);
    expect(bytes.byteLength).toBe(byteLength);
    expect(addressOf(bytes) % 4096n).toBe(0n);
  }
});

testDirect('a disk is read and written past the page cache, from buffers that begin anywhere', async () => {
  const expected = newDisk();
  const disk = await DiskFile.open(path, { direct: true });
  try {
    const flags = flagsOf(path);
    expect(flags.map((bits) => bits & constants.O_DIRECT)).toEqual([constants.O_DIRECT]);
    const unaligned = Uint8Array.from(randomBytes(3 * SECTOR + 1)).subarray(1);
    await disk.write(5 * SECTOR, unaligned);
    expected.set(unaligned, 5 * SECTOR);
    expect(await disk.read(4 * SECTOR, 5 * SECTOR)).toEqual(expected.slice(4 * SECTOR, 9 * SECTOR));
    await disk.flush();
    expect(await disk.read(0, SECTORS * SECTOR)).toEqual(expected);
  } finally {
    await disk.close();
  }
  expect(Uint8Array.from(readFileSync(path))).toEqual(expected);
});

test('without it the page cache is used', async () => {
  newDisk();
  const disk = await DiskFile.open(path);
  expect(flagsOf(path).map((bits) => bits & constants.O_DIRECT)).toEqual([0]);
  await disk.close();
});

testDirect('a request that the storage does not take is found before the guest makes one', async () => {
  newDisk();
  const file = await open(path, constants.O_RDONLY);
  const odd = { path, flags: constants.O_RDONLY, byteLength: SECTORS * SECTOR, sectorBytes: 100 };
  await expect(reopenDirect(file, odd)).rejects.toMatchObject({
    code: 'GODWIT_INVALID_ARGUMENT',
    message: expect.stringContaining('leave out "direct"'),
  });
  expect(flagsOf(path)).toHaveLength(1);
  await file.close();
});

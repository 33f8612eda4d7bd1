import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from '@jest/globals';
import { BlockDevice, BlockRequest, BlockStatus } from '../../dist/virtio/block-device.js';
import { type DiskAccess, DiskFile } from '../../dist/virtio/disk-file.js';
import { inChunks, savedState } from '../cold-migration.js';
import type { FakeQueue } from './fake-driver.js';
import { MadeDevice, pageOf } from './made-device.js';

const SECTOR = 512;
const SECTORS = 64;
let folder: string;
const made: MadeDevice[] = [];

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'virtio-block-'));
});
afterEach(() => Promise.all(made.splice(0).map((one) => one.close())));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Byte `i` of the disk as it is made. */
const original = (i: number) => (i * 7 + (i >>> 9)) & 0xff;
const originalBytes = (position: number, byteLength: number) =>
  Uint8Array.from({ length: byteLength }, (_, i) => original(position + i));

function newDisk(name: string): string {
  const path = join(folder, name);
  writeFileSync(path, originalBytes(0, SECTORS * SECTOR));
  return path;
}

async function running(path: string, access: DiskAccess = {}): Promise<{ one: MadeDevice; queue: FakeQueue }> {
  const one = MadeDevice.running(new BlockDevice(await DiskFile.open(path, access), 'a-disk'));
  made.push(one);
  return { one, queue: one.driver.queues[0] as FakeQueue };
}

function header(type: number, sector: number | bigint): { readonly out: Uint8Array } {
  const view = new DataView(new ArrayBuffer(16));
  view.setUint32(0, type, true);
  view.setBigUint64(8, BigInt(sector), true);
  return { out: new Uint8Array(view.buffer) };
}

/** Makes one request; returns what was written into its buffers. */
async function request(
  { one, queue }: { one: MadeDevice; queue: FakeQueue },
  type: number,
  sector: number | bigint,
  ...data: Parameters<FakeQueue['add']>[0]
): Promise<Uint8Array> {
  queue.add([header(type, sector), ...data, { room: 1 }]);
  queue.kick();
  return (await one.used(1))[0]?.written ?? new Uint8Array(0);
}

test('the configuration has the size in sectors and the limits of a request', async () => {
  const { one } = await running(newDisk('config'));
  const view = new DataView(one.driver.config(0, 16).buffer);
  expect(view.getBigUint64(0, true)).toBe(BigInt(SECTORS));
  expect([view.getUint32(8, true), view.getUint32(12, true)]).toEqual([65536, 126]);
  expect(one.driver.offered() & 0xffff_ffffn).toBe((1n << 1n) | (1n << 2n) | (1n << 9n));
});

test('reads sectors into buffers of any lengths', async () => {
  const disk = await running(newDisk('read'));
  const read = await request(disk, BlockRequest.read, 3, { room: 100 }, { room: 900 }, { room: 24 });
  expect(read).toEqual(Uint8Array.of(...originalBytes(3 * SECTOR, 2 * SECTOR), BlockStatus.ok));
});

test('writes sectors from buffers of any lengths, and the rest of the disk stays', async () => {
  const path = newDisk('write');
  const disk = await running(path);
  const bytes = new Uint8Array(SECTOR).fill(0xab);
  const written = await request(disk, BlockRequest.write, 5, { out: bytes.subarray(0, 7) }, { out: bytes.subarray(7) });
  expect(written).toEqual(Uint8Array.of(BlockStatus.ok));
  expect(await request(disk, BlockRequest.flush, 0)).toEqual(Uint8Array.of(BlockStatus.ok));
  const expected = originalBytes(0, SECTORS * SECTOR);
  expected.set(bytes, 5 * SECTOR);
  expect(Uint8Array.from(readFileSync(path))).toEqual(expected);
});

test('has an id', async () => {
  const disk = await running(newDisk('id'));
  const written = await request(disk, BlockRequest.getId, 0, { room: 20 });
  expect(Buffer.from(written.subarray(0, 20)).toString('latin1')).toBe('a-disk'.padEnd(20, '\0'));
  expect(written[20]).toBe(BlockStatus.ok);
});

test.each<[name: string, type: number, sector: number | bigint, data: Parameters<FakeQueue['add']>[0], status: number]>(
  [
    ['beyond the end', BlockRequest.read, SECTORS, [{ room: SECTOR }], BlockStatus.ioError],
    ['across the end', BlockRequest.read, SECTORS - 1, [{ room: 2 * SECTOR }], BlockStatus.ioError],
    ['of a sector beyond 2^64 bytes', BlockRequest.read, 2n ** 63n, [{ room: SECTOR }], BlockStatus.ioError],
    ['of half a sector', BlockRequest.read, 0, [{ room: 256 }], BlockStatus.ioError],
    ['that writes beyond the end', BlockRequest.write, SECTORS, [{ out: new Uint8Array(SECTOR) }], BlockStatus.ioError],
    ['of an unknown type', 99, 0, [], BlockStatus.unsupported],
  ],
)('a request %s fails, and the device goes on', async (_, type, sector, data, status) => {
  const disk = await running(newDisk('refused'));
  expect((await request(disk, type, sector, ...data)).at(-1)).toBe(status);
  expect(await request(disk, BlockRequest.read, 0, { room: SECTOR })).toHaveLength(SECTOR + 1);
});

test('a disk that is read-only says so, and is not written', async () => {
  const path = newDisk('readonly');
  const disk = await running(path, { readonly: true });
  expect(disk.one.driver.offered() & (1n << 5n)).not.toBe(0n);
  const written = await request(disk, BlockRequest.write, 0, { out: new Uint8Array(SECTOR) });
  expect(written).toEqual(Uint8Array.of(BlockStatus.ioError));
  expect(Uint8Array.from(readFileSync(path))).toEqual(originalBytes(0, SECTORS * SECTOR));
});

test('a request without a header, or without a status, breaks the device', async () => {
  for (const buffers of [[{ room: 1 }], [header(BlockRequest.flush, 0)]]) {
    const { one, queue } = await running(newDisk('broken'), { readonly: true });
    queue.add(buffers);
    const broken = one.changed();
    queue.kick();
    await broken;
    expect(one.broken.join()).toContain('a request to a disk has 16 bytes');
  }
});

test('a file that became shorter is an error of the guest, and not of the VMM', async () => {
  const path = newDisk('shorter');
  const disk = await running(path);
  truncateSync(path, SECTOR);
  expect((await request(disk, BlockRequest.read, 1, { room: SECTOR })).at(-1)).toBe(BlockStatus.ioError);
});

test('every page that the device writes is marked for the dirty tracker: data, status, and the used ring', async () => {
  const disk = await running(newDisk('marks'));
  const { one, queue } = disk;
  await one.tracker.start();
  const head = queue.add([header(BlockRequest.read, 0), { room: 5 * SECTOR }, { room: 3 * SECTOR }, { room: 1 }]);
  queue.kick();
  await one.used(1);
  const rooms = queue.roomOf(head).flatMap(({ address, byteLength }) => [address, address + byteLength - 1]);
  const expected = new Set([...rooms, queue.usedRing].map(pageOf));
  expect(await one.marked()).toEqual([...expected].sort((a, b) => a - b));
  await one.tracker.stop();
});

test('a pause completes what was begun, and gives the disk to another VMM', async () => {
  const path = newDisk('lock');
  const { one, queue } = await running(path);
  const other = await DiskFile.open(path);
  expect(() => other.lock()).toThrow(
    expect.objectContaining({ code: 'GODWIT_DEVICE_BUSY', message: expect.stringContaining('in use by another VMM') }),
  );
  queue.add([header(BlockRequest.write, 1), { out: new Uint8Array(SECTOR).fill(9) }, { room: 1 }]);
  queue.kick();
  await new Promise(setImmediate);
  await one.transport.stop();
  expect(queue.takeUsed()).toHaveLength(1);
  expect(readFileSync(path)[SECTOR]).toBe(9);
  other.lock();
  expect(() => one.transport.start()).toThrow(expect.objectContaining({ code: 'GODWIT_DEVICE_BUSY' }));
  await other.unlock();
  one.transport.start();
  await other.close();
});

test('a state is refused where a third VMM has the disk, and nothing is locked by that', async () => {
  const path = newDisk('taken');
  const { one } = await running(path);
  await one.transport.stop();
  const state = await savedState(one.state);
  const next = new MadeDevice(new BlockDevice(await DiskFile.open(path), 'a-disk'), one.memory);
  const third = await DiskFile.open(path, { readonly: true });
  third.lock();
  await expect(next.state.load(inChunks(state), 1)).rejects.toMatchObject({ code: 'GODWIT_DEVICE_BUSY' });
  await third.close();
  await next.state.load(inChunks(state), 1);
  // The guest may run on at the source all the same.
  one.transport.start();
  await next.transport.device.close?.();
});

test('readers share a disk', async () => {
  const path = newDisk('shared');
  await running(path, { readonly: true });
  await running(path, { readonly: true });
  const writer = await DiskFile.open(path);
  expect(() => writer.lock()).toThrow(expect.objectContaining({ code: 'GODWIT_DEVICE_BUSY' }));
  await writer.close();
});

test.each([
  ['that is not there', (path: string) => rmSync(path), 'create it'],
  ['that is empty', (path: string) => writeFileSync(path, ''), 'multiple of 512'],
  ['of half a sector', (path: string) => truncateSync(path, 700), 'multiple of 512'],
])('a disk %s is refused', async (_, spoil, told) => {
  const path = newDisk('refused');
  spoil(path);
  await expect(DiskFile.open(path)).rejects.toMatchObject({
    code: 'GODWIT_INVALID_ARGUMENT',
    message: expect.stringContaining(told),
  });
});

test('a folder is no disk', async () => {
  await expect(DiskFile.open(folder, { readonly: true })).rejects.toMatchObject({ code: 'GODWIT_INVALID_ARGUMENT' });
});

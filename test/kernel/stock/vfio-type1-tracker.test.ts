import { DirtyBitmaps, PageRunList } from '@godwit/core';
import { createGuestMemory, type MappedGuestMemory } from '@godwit/linux';
import { type DmaMapping, iommuGroupOf, Type1Container, VfioDevice, VfioGroup, VfioType1Tracker } from '@godwit/vfio';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { DmaDevice } from '../guest/dma-device.js';
import { MediatedDevice } from '../guest/mediated-device.js';
import { PAGE } from '../guest/page-memory.js';

/** The tracker on the real kernel: the engine's bitmaps have the pages that the test device writes, and no others. */

let mediated: MediatedDevice;
let group: VfioGroup;
let container: Type1Container;
let device: VfioDevice;
let memory: MappedGuestMemory;
let dma: DmaDevice;
let tracker: VfioType1Tracker;

beforeEach(async () => {
  mediated = new MediatedDevice('godwit-dma');
  group = VfioGroup.open(iommuGroupOf(mediated.folder));
  container = Type1Container.open([group]);
  // Two blocks that are not multiples of 64 pages, at addresses that are not either.
  memory = createGuestMemory({
    blocks: [
      { id: 'low', guestPhysicalAddress: 0, byteLength: 100 * PAGE },
      { id: 'high', guestPhysicalAddress: 0x1_0000_3000, byteLength: 65 * PAGE },
    ],
  });
  await container.mapMemory(memory);
  device = VfioDevice.open(group, mediated.name);
  dma = new DmaDevice(device.fd);
  tracker = new VfioType1Tracker(container, memory);
});
afterEach(async () => {
  await tracker.stop();
  device.close();
  container.close();
  group.close();
  memory.close();
  mediated.remove();
});

async function harvest(): Promise<string[]> {
  const into = new DirtyBitmaps(memory);
  await tracker.harvest(into);
  return into.blocks.flatMap((bitmap, i) =>
    [...bitmap.runs(new PageRunList())].map(
      ({ firstPage, pageCount }) => `${memory.blocks[i]?.id} ${firstPage}+${pageCount}`,
    ),
  );
}

const HIGH = 0x1_0000_3000;
const bytes = new Uint8Array(8).fill(7);

test('what is offered: pages of 4 KiB, bitmaps of 256 MiB, and no restriction of addresses without an IOMMU', () => {
  expect(container.info).toMatchObject({
    smallestPageSize: 4096,
    dirtyTracking: { pageSize: 4096, maximumBitmapBytes: 2 ** 28 },
    iovaRanges: null,
  });
});

test('a write by vfio_dma_rw is reported once, in the block and at the page where it went', async () => {
  await tracker.start();
  expect(await harvest()).toEqual([]);
  expect(dma.write(3 * PAGE - 4, bytes)).toBe(0);
  expect(dma.write(HIGH + 64 * PAGE, bytes)).toBe(0);
  expect(await harvest()).toEqual(['low 2+2', 'high 64+1']);
  expect(await harvest()).toEqual([]);
  expect(memory.blocks[1]?.view(64 * PAGE, 8)).toEqual(bytes);
});

test('a pinned page is reported every time, and once more after it was unpinned', async () => {
  expect(dma.pin(HIGH, 2)).toBe(0);
  await tracker.start();
  expect(await harvest()).toEqual(['high 0+2']);
  expect(dma.writePinned(HIGH + PAGE, bytes)).toBe(0);
  expect(await harvest()).toEqual(['high 0+2']);
  expect(dma.unpin(HIGH, 2)).toBe(0);
  expect(await harvest()).toEqual(['high 0+2']);
  expect(await harvest()).toEqual([]);
  expect(tracker.lastHarvest).toEqual({ mappedPages: 165, dirtyPages: 0, allDirtyInARow: 0 });
});

test('mappings of a few pages beside each other: no bit appears that was not written, harvest after harvest', async () => {
  await container.unmap(container.mappings[0] as DmaMapping);
  const hostAddress = memory.blocks[0]?.hostAddress as bigint;
  for (const page of [0, 1, 2, 3]) {
    const address = page * PAGE;
    await container.map({
      iova: address,
      guestPhysicalAddress: address,
      byteLength: PAGE,
      hostAddress: hostAddress + BigInt(address),
    });
  }
  await tracker.start();
  for (let round = 0; round < 4; round++) {
    dma.write(PAGE, bytes);
    expect(await harvest()).toEqual(['low 1+1']);
  }
  expect(await harvest()).toEqual([]);
});

test('dirty bits outlive their mapping, pins too', async () => {
  await tracker.start();
  expect(dma.write(5 * PAGE, bytes)).toBe(0);
  expect(dma.pin(HIGH + 7 * PAGE, 1)).toBe(0);
  await harvest();
  expect(dma.write(9 * PAGE, bytes)).toBe(0);
  for (const mapping of container.mappings) await container.unmap(mapping);
  expect(container.mappings).toEqual([]);
  expect(await harvest()).toEqual(['low 9+1', 'high 7+1']);
  expect(await harvest()).toEqual([]);
});

test('what this process itself writes is not seen', async () => {
  await tracker.start();
  memory.blocks[0]?.view(0, PAGE).fill(1);
  expect(await harvest()).toEqual([]);
});

test('mapped in pieces, every page is found again', async () => {
  for (const mapping of container.mappings) await container.unmap(mapping);
  const pieces = await container.mapMemory(memory, { largestPiece: 64 * PAGE });
  expect(pieces.map(({ byteLength }) => byteLength / PAGE)).toEqual([64, 36, 64, 1]);
  await tracker.start();
  for (const page of [0, 63, 64, 99]) dma.write(page * PAGE, bytes);
  dma.write(HIGH + 64 * PAGE, bytes);
  expect(await harvest()).toEqual(['low 0+1', 'low 63+2', 'low 99+1', 'high 64+1']);
});

test('tracking is on for one at a time, and starts afresh', async () => {
  await tracker.start();
  const second = new VfioType1Tracker(container, memory, 'second');
  await expect(second.start()).rejects.toMatchObject({ code: 'GODWIT_INVALID_STATE' });
  dma.write(0, bytes);
  await tracker.stop();
  await second.start();
  const into = new DirtyBitmaps(memory);
  await second.harvest(into);
  expect(into.count()).toBe(0);
  await second.stop();
});

test('a group that is open, a device that is not there, a range that overlaps: what went wrong is named', async () => {
  expect(() => VfioGroup.open(group.number)).toThrow(expect.objectContaining({ code: 'GODWIT_DEVICE_BUSY' }));
  expect(() => VfioGroup.open(9999)).toThrow(expect.objectContaining({ code: 'GODWIT_UNSUPPORTED' }));
  expect(() => iommuGroupOf('/sys/bus/pci/devices/none')).toThrow(/no IOMMU group/);
  expect(() => group.deviceFd('0000:00:00.0')).toThrow(expect.objectContaining({ code: 'GODWIT_UNSUPPORTED' }));
  const overlapping = {
    iova: 0,
    guestPhysicalAddress: 0,
    byteLength: PAGE,
    hostAddress: memory.blocks[0]?.hostAddress as bigint,
  };
  await expect(container.map(overlapping)).rejects.toMatchObject({
    code: 'GODWIT_INVALID_ARGUMENT',
    errnoName: 'EEXIST',
  });
});

import { release } from 'node:os';
import { DirtyBitmaps, PageRunList } from '@godwit/core';
import { createGuestMemory, type MappedGuestMemory } from '@godwit/linux';
import { type DmaMapping, type HardwarePagetable, type Ioas, Iommufd, IommufdTracker } from '@godwit/vfio';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { answered } from '../conformance/answered-rows.js';
import { named } from '../conformance/conformance-row.js';
import { getDirty, type IommufdBench, iommufdTable, MAPPED_BYTES, MAPPED_IOVA } from '../conformance/iommufd-table.js';
import { setBits } from '../guest/dma-container.js';
import { MOCK_APERTURE, MockDevice } from '../guest/mock-iommu.js';
import { PAGE, PageMemory } from '../guest/page-memory.js';
import { RowPlace } from '../guest/row-place.js';

/** iommufd's dirty tracking, with its mock devices: the only IOMMU that logs writes and needs no hardware. */

let iommufd: Iommufd;
let ioas: Ioas;
let device: MockDevice;
let pagetable: HardwarePagetable;

beforeEach(async () => {
  iommufd = Iommufd.open();
  ioas = iommufd.allocateIoas();
  device = new MockDevice(iommufd.fd, ioas.id);
  pagetable = iommufd.allocateTracking(device.deviceId, ioas);
  expect(device.attach(pagetable.id)).toBe(0);
});
afterEach(() => iommufd.close());

describe('what Linux 6.12 answers', () => {
  let place: RowPlace;
  let memory: PageMemory;
  let bench: IommufdBench;
  beforeAll(() => {
    place = new RowPlace(PAGE);
    memory = new PageMemory(16);
  });
  afterAll(() => {
    place.free();
    memory.free();
  });
  beforeEach(async () => {
    place.bytes.fill(0);
    const incapable = new MockDevice(iommufd.fd, ioas.id, { tracksDirtyPages: false });
    await ioas.map({
      iova: MAPPED_IOVA,
      byteLength: MAPPED_BYTES,
      guestPhysicalAddress: 0,
      hostAddress: memory.address,
    });
    await pagetable.setTracking(true);
    const numbers = { ioas: ioas.id, pagetable: pagetable.id };
    bench = { iommufd, ...numbers, device, incapable, place, vaddr: memory.address };
  });

  test.each(named(iommufdTable, release()))('%s: %s', (_when, result, row) => {
    expect(answered('iommufd', row, release(), row.call(bench))).toBe(result);
  });

  const bits = (): number[] => setBits(place.bytes.subarray(0, 8));
  const write = (page: number): number => device.write(pagetable.id, MAPPED_IOVA + page * PAGE, 1);

  test('GET ORs into the bitmap, and clears what it reports', () => {
    expect(write(3)).toBe(1);
    place.bytes[0] = 1;
    expect(getDirty(bench)).toBe(0);
    expect(bits()).toEqual([0, 3]);
    place.bytes.fill(0);
    expect(getDirty(bench)).toBe(0);
    expect(bits()).toEqual([]);
  });

  test('NO_CLEAR reports them again', () => {
    write(5);
    expect([getDirty(bench, { flags: 1 }), bits()]).toEqual([0, [5]]);
    place.bytes.fill(0);
    expect([getDirty(bench), bits()]).toEqual([0, [5]]);
  });

  test('a bit of a coarser page size stands for all pages of it', () => {
    write(5);
    write(14);
    expect([getDirty(bench, { pageSize: 4 * PAGE }), bits()]).toEqual([0, [1, 3]]);
  });

  test('a bitmap that cannot be written: success, and the bits are lost', () => {
    write(5);
    expect(getDirty(bench, { data: place.unmapped })).toBe(0);
    expect([getDirty(bench), bits()]).toEqual([0, []]);
  });

  test('turning tracking on again forgets what was logged', async () => {
    write(5);
    await pagetable.setTracking(true);
    expect([getDirty(bench), bits()]).toEqual([0, []]);
  });
});

describe('IommufdTracker', () => {
  /** Guest-physical address 0 is mapped at the beginning of the aperture. */
  const IOVA_BASE = MOCK_APERTURE.start;
  let memory: MappedGuestMemory;
  let mappings: DmaMapping[];
  let tracker: IommufdTracker;

  beforeEach(async () => {
    memory = createGuestMemory({
      blocks: [
        { id: 'low', guestPhysicalAddress: 0, byteLength: 100 * PAGE },
        { id: 'high', guestPhysicalAddress: 0x200_3000, byteLength: 65 * PAGE },
      ],
    });
    mappings = [];
    for (const { guestPhysicalAddress, byteLength, hostAddress } of memory.blocks) {
      const iova = IOVA_BASE + guestPhysicalAddress;
      mappings.push(await ioas.map({ iova, byteLength, guestPhysicalAddress, hostAddress }));
    }
    tracker = new IommufdTracker(pagetable, memory);
    await tracker.start();
  });
  afterEach(async () => {
    await tracker.stop();
    iommufd.close();
    memory.close();
  });

  const write = (address: number, byteLength = 1): number =>
    device.write(pagetable.id, IOVA_BASE + address, byteLength);
  async function harvest(): Promise<string[]> {
    const into = new DirtyBitmaps(memory);
    await tracker.harvest(into);
    return into.blocks.flatMap((bitmap, i) =>
      [...bitmap.runs(new PageRunList())].map(
        ({ firstPage, pageCount }) => `${memory.blocks[i]?.id} ${firstPage}+${pageCount}`,
      ),
    );
  }

  test('says what the IOMMU behind the device can', () => {
    expect(iommufd.tracksDirtyPages(device.deviceId)).toBe(true);
    const incapable = new MockDevice(iommufd.fd, ioas.id, { tracksDirtyPages: false });
    expect(iommufd.tracksDirtyPages(incapable.deviceId)).toBe(false);
    expect(() => iommufd.allocateTracking(incapable.deviceId, ioas)).toThrow(
      expect.objectContaining({ code: 'GODWIT_UNSUPPORTED' }),
    );
  });

  test('reports what the device wrote, once, in the pages of guest RAM', async () => {
    expect(await harvest()).toEqual([]);
    expect(write(7 * PAGE + 4000, 200)).toBe(2);
    expect(write(99 * PAGE)).toBe(1);
    expect(write(0x200_3000 + 64 * PAGE)).toBe(1);
    expect(await harvest()).toEqual(['low 7+2', 'low 99+1', 'high 64+1']);
    expect(await harvest()).toEqual([]);
  });

  test('all of a mapping that went counts as dirty: between the last look and its end the device may have written', async () => {
    write(3 * PAGE);
    await ioas.unmap(mappings[1] as DmaMapping);
    expect(await harvest()).toEqual(['low 3+1', 'high 0+65']);
    expect(await harvest()).toEqual([]);
  });

  test('a mapping that goes with its devices stopped is read exactly', async () => {
    write(0x200_3000 + 7 * PAGE);
    await ioas.unmap(mappings[1] as DmaMapping, { stopped: true });
    expect(await harvest()).toEqual(['high 7+1']);
  });

  test('stop and start again: clean', async () => {
    write(3 * PAGE);
    await tracker.stop();
    await tracker.start();
    expect(await harvest()).toEqual([]);
    write(4 * PAGE);
    expect(await harvest()).toEqual(['low 4+1']);
  });
});

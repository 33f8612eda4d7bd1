import { readFileSync, writeFileSync } from 'node:fs';
import { Errno } from '@godwit/linux';
import { parseType1Info, Type1, Vfio } from '@godwit/vfio';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { errnoOrResult } from '../conformance/conformance-row.js';
import { Feature, feature, GET, SET } from '../guest/device-feature.js';
import { DmaContainer } from '../guest/dma-container.js';
import { EduDmaEngine, EduPciDevice } from '../guest/edu-device.js';
import { PAGE, PageMemory } from '../guest/page-memory.js';
import { RowPlace } from '../guest/row-place.js';
import { call, type MapDma, mapDma, packed, u32 } from '../guest/vfio-calls.js';

/** A PCI device behind an IOMMU, assigned by vfio-pci: QEMU's `edu`, whose DMA engine really writes guest memory. */

const IOVA = 0x10_0000;
const PAGES = 16;
const every = Array.from({ length: PAGES }, (_, page) => page);
let place: RowPlace;
let memory: PageMemory;
let edu: EduPciDevice;
let container: DmaContainer;

beforeAll(() => {
  place = new RowPlace(PAGE);
  memory = new PageMemory(PAGES);
});
afterAll(() => {
  place.free();
  memory.free();
});
beforeEach(() => {
  edu = new EduPciDevice();
});
afterEach(() => container.close());

describe('alone in its container', () => {
  beforeEach(() => {
    container = new DmaContainer([edu]);
  });

  test('what the device copies by DMA is in memory, and every mapped page is dirty, every time', async () => {
    container.map(IOVA, memory.address, PAGES * PAGE);
    container.start();
    expect([container.dirty(IOVA, PAGES), container.dirty(IOVA, PAGES)]).toEqual([every, every]);
    const text = new TextEncoder().encode('by the device itself');
    memory.page(2).set(text);
    const engine = new EduDmaEngine(container.deviceFds[0] as number);
    try {
      await engine.copy(IOVA + 2 * PAGE, IOVA + 9 * PAGE + 100, text.length);
    } finally {
      engine.close();
    }
    expect(memory.page(9).subarray(100, 100 + text.length)).toEqual(text);
    expect(container.dirty(IOVA, PAGES)).toEqual(every);
  });

  test('read-only mappings are dirty too, though no device can write them', () => {
    const readOnly = { vaddr: memory.address, iova: IOVA, size: PAGES * PAGE, flags: Type1.VFIO_DMA_MAP_FLAG_READ };
    expect(mapDma(container, readOnly)).toBe(0);
    container.start();
    expect(container.dirty(IOVA, PAGES)).toEqual(every);
  });

  test('GET_INFO: the IOMMU’s page sizes, capabilities 2, 3 and 1, and IOVA ranges without the window of MSI', () => {
    const argument = packed(u32(256), new Uint8Array(252));
    expect(call(container, Type1.VFIO_IOMMU_GET_INFO, argument)).toBe(0);
    const view = new DataView(argument.buffer);
    expect(view.getBigUint64(8, true)).toBe(0x4020_1000n);
    const ids = [];
    for (let offset = view.getUint32(16, true); offset !== 0; offset = view.getUint32(offset + 4, true)) {
      ids.push([view.getUint16(offset, true), offset]);
    }
    expect(ids).toEqual([
      [2, 24],
      [3, 56],
      [1, 72],
    ]);
    const ranges = parseType1Info(argument).iovaRanges ?? [];
    expect(ranges.length).toBeGreaterThan(0);
    expect(ranges.filter(({ start, last }) => start <= 0xfee0_0000n && 0xfee0_0000n <= last)).toEqual([]);
  });

  test.each([
    [4, 'DMA_CC', 0],
    [10, 'UPDATE_VADDR', 1],
  ])('CHECK_EXTENSION %i, %s: %i', (id, _name, result) => {
    expect(call(container, Vfio.VFIO_CHECK_EXTENSION, id)).toBe(result);
  });

  const maps: readonly [when: string, result: string | number, map: (place: RowPlace) => Partial<MapDma>][] = [
    ['memory that is not there: it is pinned at once', 'EFAULT', ({ unmapped }) => ({ vaddr: unmapped, size: PAGE })],
    ['memory that cannot be written, for writing', 'EFAULT', ({ readOnly }) => ({ vaddr: readOnly, size: PAGE })],
    ['memory that cannot be written, for reading', 0, ({ readOnly }) => ({ vaddr: readOnly, size: PAGE, flags: 1 })],
    ['the window of MSI', 'EINVAL', () => ({ iova: 0xfee0_0000 })],
    ['a range with the window of MSI in it', 'EINVAL', () => ({ iova: 0xfedf_f000 })],
    ['an address beyond those that the IOMMU has', 'EINVAL', () => ({ iova: 2n ** 60n })],
  ];
  test.each(maps)('VFIO_IOMMU_MAP_DMA: %s: %s', (_when, result, map) => {
    const request = { vaddr: memory.address, iova: IOVA, size: PAGES * PAGE, ...map(place) };
    expect(errnoOrResult(mapDma(container, request))).toBe(result);
  });

  test('it can neither migrate nor log its DMA', () => {
    const data = new Uint8Array(32);
    expect(feature(container.deviceFile(0), Feature.MIGRATION | GET, data)).toBe(-Errno.ENOTTY);
    expect(feature(container.deviceFile(0), Feature.DMA_LOGGING_STOP | SET, data)).toBe(-Errno.ENOTTY);
  });
});

describe('beside a mediated device', () => {
  test('the container is as coarse as its coarsest device, and once that one left everything is dirty a last time', () => {
    container = new DmaContainer([edu, 'godwit-dma']);
    container.map(IOVA, memory.address, PAGES * PAGE);
    container.start();
    expect([container.dirty(IOVA, PAGES), container.dirty(IOVA, PAGES)]).toEqual([every, every]);
    container.detach(0);
    expect([container.dirty(IOVA, PAGES), container.dirty(IOVA, PAGES)]).toEqual([every, []]);
    container.device(1).write(IOVA + 3 * PAGE, new Uint8Array(1));
    expect(container.dirty(IOVA, PAGES)).toEqual([3]);
  });
});

describe('dma_entry_limit, a parameter of vfio_iommu_type1', () => {
  const parameter = '/sys/module/vfio_iommu_type1/parameters/dma_entry_limit';
  let before: string;
  beforeEach(() => {
    before = readFileSync(parameter, 'utf8');
    writeFileSync(parameter, '1');
  });
  afterEach(() => writeFileSync(parameter, before));

  test('one mapping more than it allows: ENOSPC', () => {
    container = new DmaContainer([edu]);
    container.map(IOVA, memory.address, PAGE);
    const second = { vaddr: memory.address, iova: IOVA + PAGE, size: PAGE };
    expect(errnoOrResult(mapDma(container, second))).toBe('ENOSPC');
  });
});

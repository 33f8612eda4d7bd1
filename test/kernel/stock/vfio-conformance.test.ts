import { release } from 'node:os';
import { linuxKernel, Type1, Vfio } from '@godwit/vfio/unstable';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { answered, answeredAlike } from '../conformance/answered-rows.js';
import { answerOf, named } from '../conformance/conformance-row.js';
import { deviceFeatureTable, reportRow } from '../conformance/device-feature-table.js';
import { type DirtyPagesRow, dirtyPagesTable, MAPPING } from '../conformance/dirty-pages-table.js';
import { askInfo, infoTable } from '../conformance/info-table.js';
import { mapTable, unmapTable } from '../conformance/map-table.js';
import { type SetUpBench, setUpTable } from '../conformance/set-up-table.js';
import { Feature, feature, GET, startLogging } from '../guest/device-feature.js';
import { DmaContainer } from '../guest/dma-container.js';
import { MediatedDevice } from '../guest/mediated-device.js';
import { PAGE, PageMemory } from '../guest/page-memory.js';
import { RowPlace } from '../guest/row-place.js';
import { call, MAXIMUM_BITMAP_BYTES, unmapDma } from '../guest/vfio-calls.js';

/** What this kernel answers, row by row. The tables are data: test/kernel/conformance. */

let place: RowPlace;
let memory: PageMemory;
beforeAll(() => {
  place = new RowPlace(MAXIMUM_BITMAP_BYTES + PAGE);
  memory = new PageMemory(512);
});
afterAll(() => {
  place.free();
  memory.free();
});

describe('containers, groups and devices', () => {
  let kept: number[];
  let device: MediatedDevice;
  let bench: SetUpBench;
  beforeEach(() => {
    device = new MediatedDevice('godwit-dma');
    const port = linuxKernel;
    const container = { port, fd: port.open('/dev/vfio/vfio') };
    const group = { port, fd: port.open(`/dev/vfio/${device.group}`) };
    kept = [container.fd, group.fd];
    bench = {
      port,
      container,
      group,
      groupNumber: device.group,
      name: device.name,
      unmapped: place.unmapped,
      keep: (fd) => {
        kept.push(fd);
        return fd;
      },
    };
  });
  afterEach(() => {
    for (const fd of kept.reverse()) linuxKernel.close(fd);
    device.remove();
  });

  test.each(named(setUpTable, release()))('%s: %s', (_when, result, row) => {
    expect(answered('set-up', row, release(), row.call(bench))).toBe(result);
  });
});

describe('VFIO_IOMMU_DIRTY_PAGES', () => {
  let container: DmaContainer;
  afterEach(() => container.close());

  test.each(dirtyPagesTable.map((row) => [`row ${row.row}`, row.when, answerOf(row.result, release()), row] as const))(
    '%s: %s: %s',
    (_number, _when, result, row) => {
      container = containerFor(row);
      const argument = row.argument(place);
      const returned = call(container, Type1.VFIO_IOMMU_DIRTY_PAGES, argument);
      expect(answered('VFIO_IOMMU_DIRTY_PAGES', row, release(), returned)).toBe(result);
    },
  );

  function containerFor(row: DirtyPagesRow): DmaContainer {
    const made = new DmaContainer(['godwit-dma'], { iommu: Vfio[row.iommu ?? 'VFIO_TYPE1v2_IOMMU'] });
    const mappings = row.mappings ?? [{ iova: MAPPING.iova, size: MAPPING.pages * PAGE }];
    for (const { iova, size } of mappings) made.map(iova, memory.address, size);
    if (row.tracking ?? true) made.start();
    return made;
  }
});

describe('mapping and unmapping', () => {
  let container: DmaContainer;
  beforeEach(() => {
    container = new DmaContainer();
  });
  afterEach(() => container.close());
  const bench = () => ({ container, vaddr: memory.address, place });

  test.each(named(mapTable, release()))('VFIO_IOMMU_MAP_DMA: %s: %s', (_when, result, row) => {
    expect(answered('VFIO_IOMMU_MAP_DMA', row, release(), row.call(bench()))).toBe(result);
  });

  test.each(named(unmapTable, release()))('VFIO_IOMMU_UNMAP_DMA: %s: %s', (_when, result, row) => {
    expect(answered('VFIO_IOMMU_UNMAP_DMA', row, release(), row.call(bench()))).toBe(result);
  });

  test('UNMAP_DMA writes back how much it unmapped', () => {
    container.map(0, memory.address, 4 * PAGE);
    container.map(8 * PAGE, memory.address, 8 * PAGE);
    expect(unmapDma(container, { iova: 0, size: 32 * PAGE })).toEqual({ result: 0, size: 12 * PAGE });
    expect(unmapDma(container, { iova: 0, size: 32 * PAGE })).toEqual({ result: 0, size: 0 });
  });
});

describe('VFIO_IOMMU_GET_INFO with mediated devices alone', () => {
  let container: DmaContainer;
  beforeAll(() => {
    container = new DmaContainer();
  });
  afterAll(() => container.close());

  test.each(infoTable.map((row) => [row.when, row] as const))('%s', (_when, row) => {
    const answer = askInfo(container, row);
    expect(answeredAlike('VFIO_IOMMU_GET_INFO', row.when, row.result, answer)).toEqual(row.result);
  });
});

describe('VFIO_DEVICE_FEATURE', () => {
  let container: DmaContainer;
  beforeEach(() => {
    container = new DmaContainer(['mtty-2', 'godwit-dma']);
  });
  afterEach(() => container.close());

  test.each(named([...deviceFeatureTable, reportRow(false)], release()))('%s: %s', (_when, result, row) => {
    const [mtty, dma] = [container.deviceFile(0), container.deviceFile(1)];
    const returned = row.call({ mtty, dma, unmapped: place.unmapped });
    expect(answered('VFIO_DEVICE_FEATURE', row, release(), returned)).toBe(result);
  });

  test('mtty takes DMA_LOGGING_START twice: its log is a stub (mtty.c:1287)', () => {
    const ranges = [{ iova: 0, length: PAGE }];
    expect(startLogging(container.deviceFile(0), ranges)).toBe(0);
    expect(startLogging(container.deviceFile(0), ranges)).toBe(0);
  });

  test('mtty can STOP_COPY, P2P and PRE_COPY, is RUNNING, and has 96 bytes to send', () => {
    const mtty = container.deviceFile(0);
    const data = new Uint8Array(8);
    feature(mtty, Feature.MIGRATION | GET, data);
    expect([...data]).toEqual([7, 0, 0, 0, 0, 0, 0, 0]);
    feature(mtty, Feature.MIG_DEVICE_STATE | GET, data);
    expect([...data]).toEqual([2, 0, 0, 0, 255, 255, 255, 255]);
    feature(mtty, Feature.MIG_DATA_SIZE | GET, data);
    expect([...data]).toEqual([96, 0, 0, 0, 0, 0, 0, 0]);
  });
});

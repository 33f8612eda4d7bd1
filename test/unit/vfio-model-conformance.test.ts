import { Iommufd } from '@godwit/vfio';
import { VfioModel } from '@godwit/vfio/testing';
import { Type1, Vfio } from '@godwit/vfio/unstable';
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { answerOf, DESCRIBED, errnoOrResult, named } from '../kernel/conformance/conformance-row.js';
import { deviceFeatureTable } from '../kernel/conformance/device-feature-table.js';
import { dirtyPagesTable, MAPPING } from '../kernel/conformance/dirty-pages-table.js';
import { askInfo, infoTable } from '../kernel/conformance/info-table.js';
import { iommufdTable, MAPPED_BYTES, MAPPED_IOVA } from '../kernel/conformance/iommufd-table.js';
import { mapTable, unmapTable } from '../kernel/conformance/map-table.js';
import { setUpTable } from '../kernel/conformance/set-up-table.js';
import { DmaContainer } from '../kernel/guest/dma-container.js';
import { PAGE, PageMemory } from '../kernel/guest/page-memory.js';
import { RowPlace } from '../kernel/guest/row-place.js';
import { call, MAXIMUM_BITMAP_BYTES } from '../kernel/guest/vfio-calls.js';

/**
 * The model on which VFIO's tests run must answer every row as the kernel does; `npm run test:kernel` puts the same rows
 * to the kernel.
 */

const GROUP = 7;
/** As in the kernel, mtty can be migrated and the test device cannot; both accept the calls of DMA logging. */
const MTTY = { logging: true };
const DMA = { logging: true, migrationFlags: 0 };
const device = { name: 'device', group: GROUP, remove: () => {} };
let place: RowPlace;
let memory: PageMemory;
let model: VfioModel;
beforeAll(() => {
  place = new RowPlace(MAXIMUM_BITMAP_BYTES + PAGE);
  memory = new PageMemory(512);
});
afterAll(() => {
  place.free();
  memory.free();
});

describe('containers, groups and devices', () => {
  test.each(named(setUpTable, DESCRIBED))('%s: %s', (_when, result, row) => {
    const port = new VfioModel([{ number: GROUP, devices: { device: DMA } }]);
    const container = { port, fd: port.open('/dev/vfio/vfio') };
    const group = { port, fd: port.open(`/dev/vfio/${GROUP}`) };
    const bench = { port, container, group, groupNumber: GROUP, name: 'device', unmapped: place.unmapped };
    expect(errnoOrResult(row.call({ ...bench, keep: (fd) => fd }))).toBe(result);
  });
});

describe('a container', () => {
  let container: DmaContainer;
  afterEach(() => container.close());
  function made(iommu: number = Vfio.VFIO_TYPE1v2_IOMMU): DmaContainer {
    model = new VfioModel([{ number: GROUP, devices: { device: DMA } }]);
    container = new DmaContainer([device], { port: model, iommu });
    return container;
  }

  test.each(dirtyPagesTable.map((row) => [`row ${row.row}`, row.when, answerOf(row.result, DESCRIBED), row] as const))(
    'VFIO_IOMMU_DIRTY_PAGES: %s: %s: %s',
    (_number, _when, result, row) => {
      made(Vfio[row.iommu ?? 'VFIO_TYPE1v2_IOMMU']);
      const mappings = row.mappings ?? [{ iova: MAPPING.iova, size: MAPPING.pages * PAGE }];
      for (const { iova, size } of mappings) container.map(iova, memory.address, size);
      if (row.tracking ?? true) container.start();
      expect(errnoOrResult(call(container, Type1.VFIO_IOMMU_DIRTY_PAGES, row.argument(place)))).toBe(result);
    },
  );

  test.each(infoTable.map((row) => [row.when, row] as const))('VFIO_IOMMU_GET_INFO: %s', (_when, row) => {
    expect(askInfo(made(), row)).toEqual(row.result);
  });

  test.each(named(mapTable, DESCRIBED))('VFIO_IOMMU_MAP_DMA: %s: %s', (_when, result, row) => {
    expect(errnoOrResult(row.call({ container: made(), vaddr: memory.address, place }))).toBe(result);
  });

  test.each(named(unmapTable, DESCRIBED))('VFIO_IOMMU_UNMAP_DMA: %s: %s', (_when, result, row) => {
    expect(errnoOrResult(row.call({ container: made(), vaddr: memory.address, place }))).toBe(result);
  });
});

test.each(named(deviceFeatureTable, DESCRIBED))('VFIO_DEVICE_FEATURE: %s: %s', (_when, result, row) => {
  const port = new VfioModel([
    { number: GROUP, devices: { device: DMA } },
    { number: GROUP + 1, devices: { mtty: MTTY } },
  ]);
  const container = new DmaContainer([{ ...device, name: 'mtty', group: GROUP + 1 }, device], { port });
  const bench = { mtty: container.deviceFile(0), dma: container.deviceFile(1), unmapped: place.unmapped };
  expect(errnoOrResult(row.call(bench))).toBe(result);
});

describe('iommufd with a mock IOMMU', () => {
  test.each(named(iommufdTable, DESCRIBED))('%s: %s', async (_when, result, row) => {
    const port = new VfioModel([]);
    const iommufd = Iommufd.open(port);
    const kernel = port.iommufd(iommufd.fd);
    const ioas = iommufd.allocateIoas();
    const capable = kernel.device();
    const pagetable = iommufd.allocateTracking(capable.deviceId, ioas);
    const hostAddress = memory.address;
    await ioas.map({ iova: MAPPED_IOVA, byteLength: MAPPED_BYTES, guestPhysicalAddress: 0, hostAddress });
    await pagetable.setTracking(true);
    const bench = {
      iommufd: { port, fd: iommufd.fd },
      ioas: ioas.id,
      pagetable: pagetable.id,
      device: capable,
      incapable: kernel.device({ tracksDirtyPages: false }),
      place,
      vaddr: hostAddress,
    };
    expect(errnoOrResult(row.call(bench))).toBe(result);
    iommufd.close();
  });
});

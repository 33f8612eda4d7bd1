import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Errno } from '@godwit/linux/unstable';
import { VfioGroup } from '@godwit/vfio';
import { linuxKernel, parseType1Info, Type1, Vfio } from '@godwit/vfio/unstable';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { errnoOrResult } from '../conformance/conformance-row.js';
import { Feature, feature, GET, SET } from '../guest/device-feature.js';
import { DmaContainer } from '../guest/dma-container.js';
import { EduDmaEngine, EduPciDevice } from '../guest/edu-device.js';
import { PAGE, PageMemory } from '../guest/page-memory.js';
import { AssignedPciDevice, PCI_DEVICES, unbindPciDevice } from '../guest/pci-device.js';
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

describe('the limit of locked memory, for a process without CAP_IPC_LOCK', () => {
  /** Maps 64 pages with this limit of locked memory, in bytes: see locked-memory-child.ts. */
  function mapWith(limit: number): { readonly code?: string; readonly message?: string; readonly mapped: number } {
    const child = join(import.meta.dirname, '../guest/locked-memory-child.js');
    const unprivileged = ['--bounding-set', '-ipc_lock', '--inh-caps', '-ipc_lock', 'prlimit', `--memlock=${limit}`];
    const node = [process.execPath, child, String(edu.group)];
    return JSON.parse(execFileSync('setpriv', [...unprivileged, ...node], { encoding: 'utf8' }));
  }
  beforeEach(() => {
    // The child uses the device; this container is only for the `afterEach` of all tests, which closes one.
    container = new DmaContainer();
  });
  afterEach(() => edu.remove());

  test('is enough: the memory is mapped', () => {
    expect(mapWith(65 * PAGE)).toEqual({ mapped: 1 });
  });

  test('is not: ENOMEM, and nothing stays mapped', () => {
    expect(mapWith(63 * PAGE)).toMatchObject({
      code: 'GODWIT_OUT_OF_MEMORY',
      message: expect.stringContaining('ulimit -l'),
      mapped: 0,
    });
  });
});

describe('a group that shares the IOMMU with a device of the host', () => {
  /**
   * Both are functions of QEMU's ICH9 (hw/i386/pc_q35.c): the test gets the SATA controller, the host keeps the SMBus
   * controller.
   */
  const SATA = '0000:00:1f.2';
  const SMBUS = '0000:00:1f.3';
  let sata: AssignedPciDevice;
  beforeEach(() => {
    container = new DmaContainer();
    edu.remove();
    writeFileSync('/sys/bus/pci/drivers_probe', SMBUS);
    sata = new AssignedPciDevice(SATA);
  });
  afterEach(() => sata.remove());

  test('is not viable, and viable once the host has let go of it', () => {
    expect(existsSync(join(PCI_DEVICES, SMBUS, 'driver'))).toBe(true);
    expect(() => VfioGroup.open(sata.group)).toThrow(
      expect.objectContaining({ code: 'GODWIT_DEVICE_BUSY', message: expect.stringContaining('not viable') }),
    );
    const group = { port: linuxKernel, fd: linuxKernel.open(`/dev/vfio/${sata.group}`) };
    try {
      const status = u32(8, 0xffff_ffff);
      expect([call(group, Vfio.VFIO_GROUP_GET_STATUS, status), status[4]]).toEqual([0, 0]);
      const into = call(group, Vfio.VFIO_GROUP_SET_CONTAINER, u32(container.fd));
      expect(errnoOrResult(into)).toBe('EPERM');
    } finally {
      linuxKernel.close(group.fd);
    }
    unbindPciDevice(SMBUS);
    const viable = VfioGroup.open(sata.group);
    expect(viable.status()).toEqual({ viable: true, containerSet: false });
    viable.close();
  });
});

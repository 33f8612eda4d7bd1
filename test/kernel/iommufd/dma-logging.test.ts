import { release } from 'node:os';
import { DirtyBitmaps, PageRunList } from '@godwit/core';
import { createGuestMemory, type MappedGuestMemory } from '@godwit/linux';
import { DmaLoggingTracker, Type1Container, VfioDevice, VfioGroup } from '@godwit/vfio';
import { linuxKernel } from '@godwit/vfio/unstable';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { errnoOrResult, named } from '../conformance/conformance-row.js';
import { reportRow } from '../conformance/device-feature-table.js';
import { reportLogged, startLogging } from '../guest/device-feature.js';
import { setBits } from '../guest/dma-container.js';
import { DmaDevice } from '../guest/dma-device.js';
import { MediatedDevice } from '../guest/mediated-device.js';
import { PAGE } from '../guest/page-memory.js';

/**
 * A device that logs its own DMA, in a kernel that can report the log. Debian's kernel, without CONFIG_IOMMUFD, cannot.
 */

const HIGH = 0x1_0000_3000;
const bytes = new Uint8Array(8).fill(7);
let mediated: MediatedDevice;
let group: VfioGroup;
let container: Type1Container;
let device: VfioDevice;
let memory: MappedGuestMemory;
let dma: DmaDevice;

beforeEach(async () => {
  mediated = new MediatedDevice('godwit-dma');
  group = VfioGroup.open(mediated.group);
  container = Type1Container.open([group]);
  memory = createGuestMemory({
    blocks: [
      { id: 'low', guestPhysicalAddress: 0, byteLength: 100 * PAGE },
      { id: 'high', guestPhysicalAddress: HIGH, byteLength: 65 * PAGE },
    ],
  });
  await container.mapMemory(memory);
  device = VfioDevice.open(group, mediated.name);
  dma = new DmaDevice(device.fd);
});
afterEach(() => {
  device.close();
  container.close();
  group.close();
  memory.close();
  mediated.remove();
});

describe('by raw calls', () => {
  test.each(named([reportRow(true)], release()))('%s: %s', (_when, result, row) => {
    const file = { port: linuxKernel, fd: device.fd };
    expect(errnoOrResult(row.call({ dma: file, mtty: file, unmapped: 0n }))).toBe(result);
  });

  test('REPORT ORs into the bitmap, clears the log, and merges pages', () => {
    expect(startLogging(device, [{ iova: 0, length: 64 * PAGE }])).toBe(0);
    dma.write(5 * PAGE, bytes);
    dma.write(64 * PAGE, bytes);
    const bitmap = new Uint8Array(16);
    bitmap[0] = 1;
    expect(reportLogged(device, { iova: 0, length: 100 * PAGE }, bitmap)).toBe(0);
    expect(setBits(bitmap)).toEqual([0, 5]);
    dma.write(9 * PAGE, bytes);
    bitmap.fill(0);
    expect(reportLogged(device, { iova: 0, length: 64 * PAGE }, bitmap, 4 * PAGE)).toBe(0);
    expect(setBits(bitmap)).toEqual([2]);
  });
});

describe('DmaLoggingTracker', () => {
  let tracker: DmaLoggingTracker;
  beforeEach(async () => {
    tracker = new DmaLoggingTracker(device, container, memory);
    await tracker.start();
  });
  afterEach(() => tracker.stop());

  async function harvest(): Promise<string[]> {
    const into = new DirtyBitmaps(memory);
    await tracker.harvest(into);
    return into.blocks.flatMap((bitmap, i) =>
      [...bitmap.runs(new PageRunList())].map(
        ({ firstPage, pageCount }) => `${memory.blocks[i]?.id} ${firstPage}+${pageCount}`,
      ),
    );
  }

  test('reports every write once, also those to pinned pages, and pins alone never', async () => {
    expect(tracker.exact).toBe(true);
    expect(await harvest()).toEqual([]);
    expect(dma.pin(HIGH, 3)).toBe(0);
    expect(dma.writePinned(HIGH + PAGE + 4090, bytes)).toBe(0);
    expect(dma.write(99 * PAGE, bytes)).toBe(0);
    expect(await harvest()).toEqual(['low 99+1', 'high 1+2']);
    expect(await harvest()).toEqual([]);
  });

  test('what was written to a mapping before it went is reported', async () => {
    const [low] = container.mappings;
    dma.write(42 * PAGE, bytes);
    await container.unmap(low as { iova: number; byteLength: number });
    expect(await harvest()).toEqual(['low 42+1']);
  });
});

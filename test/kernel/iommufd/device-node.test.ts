import { DirtyBitmaps, PageRunList } from '@godwit/core';
import { createGuestMemory, type MappedGuestMemory } from '@godwit/linux';
import { chooseTrackers, type Ioas, Iommufd, VfioDeviceNode } from '@godwit/vfio';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { DmaDevice } from '../guest/dma-device.js';
import { MediatedDevice } from '../guest/mediated-device.js';
import { PAGE } from '../guest/page-memory.js';

/**
 * A device that is opened by its own node and attached to an address space of iommufd, without a group and a container.
 */

let mediated: MediatedDevice;
let iommufd: Iommufd;
let ioas: Ioas;
let node: VfioDeviceNode;
let memory: MappedGuestMemory;

beforeEach(async () => {
  mediated = new MediatedDevice('godwit-dma');
  iommufd = Iommufd.open();
  ioas = iommufd.allocateIoas();
  node = VfioDeviceNode.open(mediated.folder, mediated.name, iommufd);
  memory = createGuestMemory({ blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 100 * PAGE }] });
  const hostAddress = memory.blocks[0]?.hostAddress as bigint;
  await ioas.map({ iova: 0, guestPhysicalAddress: 0, byteLength: 100 * PAGE, hostAddress });
});
afterEach(() => {
  node.close();
  iommufd.close();
  memory.close();
  mediated.remove();
});

test('bound, attached and detached, its DMA goes through the address space', () => {
  const dma = new DmaDevice(node.device.fd);
  const bytes = new Uint8Array(8).fill(7);
  node.attach(ioas);
  expect(dma.write(3 * PAGE, bytes)).toBe(0);
  expect(memory.blocks[0]?.view(3 * PAGE, 8)).toEqual(bytes);
  node.detach();
  expect(dma.write(3 * PAGE, bytes)).toBeLessThan(0);
});

test('a mediated device has no IOMMU that could log for it; its own log is chosen, and tells', async () => {
  expect(iommufd.tracksDirtyPages(node.deviceId)).toBe(false);
  expect(() => iommufd.allocateTracking(node.deviceId, ioas)).toThrow(/IOMMU_HWPT_ALLOC/);
  node.attach(ioas);
  const [choice] = await chooseTrackers([{ device: node.device, space: ioas }], memory);
  const tracker = choice?.tracker;
  expect(tracker?.name).toBe(`vfio-dma-log ${mediated.name}`);
  await tracker?.start();
  new DmaDevice(node.device.fd).write(7 * PAGE - 1, new Uint8Array(2));
  const into = new DirtyBitmaps(memory);
  await tracker?.harvest(into);
  expect([...into.at(0).runs(new PageRunList())]).toEqual([{ firstPage: 6, pageCount: 2 }]);
  await tracker?.stop();
});

test('in its Async forms nothing holds the event loop up, and all of it closes once', async () => {
  node.close();
  await node.closeAsync();
  const again = await VfioDeviceNode.openAsync(mediated.folder, mediated.name, iommufd);
  await again.attachAsync(ioas);
  expect(new DmaDevice(again.device.fd).write(0, new Uint8Array(8).fill(7))).toBe(0);
  expect(memory.blocks[0]?.discard({ firstPage: 0, pageCount: 100 })).toBe(false);
  await again.detachAsync();
  await Promise.all([again.closeAsync(), again.closeAsync()]);
  expect(() => again.attach(ioas)).toThrow(expect.objectContaining({ code: 'GODWIT_INVALID_STATE' }));
  await ioas.unmap(ioas.mappings[0] as NonNullable<(typeof ioas.mappings)[0]>);
  expect(memory.blocks[0]?.discard({ firstPage: 0, pageCount: 100 })).toBe(true);
});

test('a device that somebody has is busy, and one that is not there has no node', () => {
  const other = Iommufd.open();
  expect(() => VfioDeviceNode.open(mediated.folder, mediated.name, other)).toThrow(
    expect.objectContaining({ code: 'GODWIT_DEVICE_BUSY' }),
  );
  expect(() => VfioDeviceNode.open('/sys/bus/pci/devices/none', 'none', other)).toThrow(
    expect.objectContaining({ code: 'GODWIT_UNSUPPORTED' }),
  );
  other.close();
});

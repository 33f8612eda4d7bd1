import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Errno, type IoctlArgument, StructBuffer } from '@godwit/linux/unstable';
import {
  type Ioas,
  Iommufd,
  type KernelPort,
  Type1Container,
  VfioDevice,
  VfioDeviceNode,
  VfioGroup,
  VfioType1Tracker,
} from '@godwit/vfio';
import { VfioModel } from '@godwit/vfio/testing';
import { IOMMU_IOAS_IOVA_RANGES, IommufdRequest, Type1, Vfio } from '@godwit/vfio/unstable';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { errorOf } from './error-of.js';
import { modelledVm } from './model.js';

/** Closing: once, after the calls in flight, and no call on a number that is somebody else's by then. */

/** A kernel that notes what is done to which descriptor; slow calls end when they are told to. */
class NotedKernel implements KernelPort {
  readonly closed: number[] = [];
  readonly asked: (readonly [fd: number, request: number])[] = [];
  slow = false;
  readonly finish: (() => void)[] = [];
  #next = 100;

  open = (): number => this.#next++;
  close = (fd: number): void => void this.closed.push(fd);
  closeAsync = async (fd: number): Promise<void> => void this.closed.push(fd);
  ioctl = (fd: number, request: number, argument?: IoctlArgument): number => {
    this.asked.push([fd, request]);
    if (request === IommufdRequest.IOMMU_IOAS_IOVA_RANGES && typeof argument === 'object') {
      new StructBuffer(IOMMU_IOAS_IOVA_RANGES, argument as Uint8Array).set('out_iova_alignment', 4096);
    }
    return 0;
  };
  ioctlAsync = async (fd: number, request: number): Promise<number> => {
    this.asked.push([fd, request]);
    if (this.slow) {
      await new Promise<void>((resolve) => this.finish.push(resolve));
    }
    return 0;
  };
  read = async (): Promise<number> => 0;
  write = async (): Promise<number> => 0;
}

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'godwit-'));
  mkdirSync(join(folder, 'vfio-dev/vfio0'), { recursive: true });
});
afterEach(() => rmSync(folder, { recursive: true }));

describe('close is idempotent, in both forms and mixed', () => {
  const both = async (thing: { close(): void; closeAsync(): Promise<void> }): Promise<void> => {
    thing.close();
    thing.close();
    await thing.closeAsync();
    await Promise.all([thing.closeAsync(), thing.closeAsync()]);
    thing.close();
  };
  const onPool = async (thing: { close(): void; closeAsync(): Promise<void> }): Promise<void> => {
    await Promise.all([thing.closeAsync(), thing.closeAsync()]);
    thing.close();
  };

  test.each([both, onPool])('of a device node and its iommufd', async (close) => {
    const kernel = new NotedKernel();
    const iommufd = Iommufd.open(kernel);
    const node = VfioDeviceNode.open(folder, 'nic', iommufd, kernel);
    await close(node);
    await close(iommufd);
    expect(kernel.closed).toEqual([101, 100]);
  });

  test.each([both, onPool])('of a container and its group', async (close) => {
    const model = new VfioModel([{ number: 7 }]);
    const group = VfioGroup.open(7, model);
    const container = Type1Container.open([group], model);
    await close(container);
    await close(group);
    expect(model.openDescriptors).toBe(0);
  });

  test('adopted descriptors stay open', async () => {
    const kernel = new NotedKernel();
    await both(Iommufd.adopt(7, kernel));
    expect(kernel.closed).toEqual([]);
  });
});

test('a descriptor is given back when the calls on it are over, and takes none afterwards', async () => {
  const kernel = new NotedKernel();
  for (const close of [(iommufd: Iommufd) => iommufd.close(), (iommufd: Iommufd) => void iommufd.closeAsync()]) {
    kernel.closed.length = 0;
    const iommufd = Iommufd.open(kernel);
    const ioas: Ioas = iommufd.allocateIoas();
    kernel.slow = true;
    const mapping = ioas
      .map({ iova: 0, byteLength: 4096, guestPhysicalAddress: 0, hostAddress: 0x1000n })
      .catch(() => {});
    const pagetable = iommufd.allocateTrackingAsync(1, ioas);
    await new Promise(setImmediate);
    close(iommufd);
    expect(kernel.closed).toEqual([]);
    const { length } = kernel.asked;
    expect((await errorOf(() => iommufd.allocateIoas())).code).toBe('GODWIT_INVALID_STATE');
    expect((await errorOf(() => iommufd.destroy(1))).code).toBe('GODWIT_INVALID_STATE');
    expect((await errorOf(() => ioas.alignment())).code).toBe('GODWIT_INVALID_STATE');
    expect((await errorOf(() => iommufd.allocateTrackingAsync(1, ioas))).code).toBe('GODWIT_INVALID_STATE');
    expect(kernel.asked).toHaveLength(length);
    kernel.slow = false;
    expect(kernel.finish).toHaveLength(2);
    kernel.finish.shift()?.();
    await new Promise(setImmediate);
    expect(kernel.closed).toEqual([]);
    kernel.finish.shift()?.();
    await Promise.all([mapping, pagetable]);
    await new Promise(setImmediate);
    expect(kernel.closed).toEqual([iommufd.fd]);
    expect((await errorOf(() => ioas.unmap({ iova: 0, byteLength: 4096 }))).code).toBe('GODWIT_INVALID_STATE');
    expect(kernel.asked).toHaveLength(length);
  }
});

test('a container, its log and its group say that they are closed, and ask the kernel nothing', async () => {
  const { container, group, model, memory, close } = await modelledVm([4]);
  const tracker = new VfioType1Tracker(container, memory);
  await tracker.start();
  const [mapping] = container.mappings;
  close();
  const asked = model.requests.length;
  for (const action of [
    () => container.map({ ...(mapping as NonNullable<typeof mapping>), iova: 0x100_0000, hostAddress: 0x1000n }),
    () => container.unmap(mapping as NonNullable<typeof mapping>),
    () => group.status(),
    () => group.deviceFd('nic'),
    () => group.deviceFdAsync('nic'),
    () => group.setContainer(1),
  ]) {
    expect((await errorOf(action)).code).toBe('GODWIT_INVALID_STATE');
  }
  await tracker.stop();
  expect(model.requests).toHaveLength(asked);
});

describe('a container that cannot be opened undoes what it did', () => {
  test.each([
    ['setting the IOMMU', Vfio.VFIO_SET_IOMMU],
    ['reading what it can do', Type1.VFIO_IOMMU_GET_INFO],
    ['asking for type1v2', Vfio.VFIO_CHECK_EXTENSION],
  ])('when it fails at %s', async (_what, request) => {
    const model = new VfioModel([{ number: 7 }, { number: 8 }]);
    const groups = [VfioGroup.open(7, model), VfioGroup.open(8, model)];
    for (const open of [Type1Container.open, Type1Container.openAsync]) {
      model.failures.set(request, Errno.ENODEV);
      await errorOf(() => open(groups, model));
      model.failures.clear();
      expect(groups.map((group) => group.status().containerSet)).toEqual([false, false]);
      expect(model.openDescriptors).toBe(2);
      (await open(groups, model)).close();
    }
    for (const group of groups) group.close();
    expect(model.openDescriptors).toBe(0);
  });

  test('when a later group is in another container already: the earlier ones are free again', async () => {
    const model = new VfioModel([{ number: 7 }, { number: 8 }]);
    const [seven, eight] = [VfioGroup.open(7, model), VfioGroup.open(8, model)];
    const theirs = Type1Container.open([eight], model);
    expect((await errorOf(() => Type1Container.open([seven, eight], model))).code).toBe('GODWIT_INVALID_STATE');
    expect([seven.status().containerSet, eight.status().containerSet]).toEqual([false, true]);
    theirs.close();
    Type1Container.open([seven, eight], model).close();
    seven.close();
    eight.close();
  });
});

test('a container that is closed leaves its groups free for another one; with a device open, once that is closed too', async () => {
  const model = new VfioModel([{ number: 7, devices: { nic: {} } }]);
  const group = VfioGroup.open(7, model);
  const first = await Type1Container.openAsync([group], model);
  await first.closeAsync();
  const second = Type1Container.open([group], model);
  const device = VfioDevice.open(group, 'nic', model);
  second.close();
  expect(group.status().containerSet).toBe(true);
  device.close();
  group.close();
  expect(model.openDescriptors).toBe(0);
});

test('a device node that cannot be bound is closed', async () => {
  const kernel = new NotedKernel();
  const iommufd = Iommufd.open(kernel);
  kernel.ioctl = () => -Errno.EBUSY;
  kernel.ioctlAsync = async () => -Errno.EBUSY;
  for (const open of [VfioDeviceNode.open, VfioDeviceNode.openAsync]) {
    expect((await errorOf(() => open(folder, 'nic', iommufd, kernel))).code).toBe('GODWIT_DEVICE_BUSY');
  }
  expect(kernel.closed).toEqual([101, 102]);
});

test('what pins memory or waits for firmware is on the pool in its Async form', async () => {
  const kernel = new NotedKernel();
  const iommufd = Iommufd.open(kernel);
  const ioas = iommufd.allocateIoas();
  const onLoop: number[] = [];
  kernel.ioctl = (_fd, request) => {
    onLoop.push(request);
    return 0;
  };
  kernel.close = () => void onLoop.push(-1);
  const node = await VfioDeviceNode.openAsync(folder, 'nic', iommufd, kernel);
  const pagetable = await iommufd.allocateTrackingAsync(node.deviceId, ioas);
  await node.attachAsync(pagetable);
  await node.detachAsync();
  await node.closeAsync();
  await iommufd.closeAsync();
  expect(onLoop).toEqual([]);
});

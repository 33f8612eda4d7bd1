import { DirtyBitmaps, type DirtyTracker } from '@godwit/core';
import { Errno, StructBuffer } from '@godwit/linux/unstable';
import {
  DmaLoggingTracker,
  type DmaMapping,
  type Ioas,
  Iommufd,
  IommufdTracker,
  Type1Container,
  VfioDevice,
  VfioType1Tracker,
} from '@godwit/vfio';
import type { IommufdModelDevice, LoggingModel, VfioModel } from '@godwit/vfio/testing';
import { IOMMU_IOAS_UNMAP, IommufdRequest, LONGEST_WAIT_MS, Type1 } from '@godwit/vfio/unstable';
import { afterEach, describe, expect, jest, test } from '@jest/globals';
import { errorOf } from './error-of.js';
import { dirtyPages, type ModelledVm, modelledVm, PAGE } from './model.js';

/** What an unmap owes, and what a harvest makes of changes that are under way. */

const IOVA = 0x100_0000;
let vm: ModelledVm | undefined;
const alsoOpen: { close(): void }[] = [];
afterEach(() => {
  jest.useRealTimers();
  for (const opened of alsoOpen.splice(0)) opened.close();
  vm?.close();
  vm = undefined;
});

type Space = Type1Container | Ioas;
const pages = (first: number, count = 8) => Array.from({ length: count }, (_, i) => `0:${first + i}`);

async function harvest(tracker: DirtyTracker): Promise<string[]> {
  const { memory } = vm as ModelledVm;
  const into = new DirtyBitmaps(memory);
  await tracker.harvest(into);
  return dirtyPages(memory, into);
}

/** 8 pages of RAM from page `ram` on, at `iova`. */
function map(space: Space, iova: number, ram: number): Promise<DmaMapping> {
  const [block] = (vm as ModelledVm).memory.blocks;
  if (block === undefined) throw new Error('unreachable');
  const guestPhysicalAddress = ram * PAGE;
  const hostAddress = block.hostAddress + BigInt(guestPhysicalAddress);
  return space.map({ iova, byteLength: 8 * PAGE, guestPhysicalAddress, hostAddress });
}

interface Place {
  readonly space: Space;
  readonly tracker: DirtyTracker;
  readonly model: VfioModel;
  /** The request that reads the log, and the one that unmaps. */
  readonly read: number;
  readonly unmap: number;
  write(iova: number): void;
}

async function emptyVm(): Promise<ModelledVm> {
  vm = await modelledVm([256], {}, { devices: { nic: { logging: true } } });
  await vm.container.unmap(vm.container.mappings[0] as DmaMapping);
  return vm;
}

async function type1(): Promise<Place> {
  const { container: space, model, memory } = await emptyVm();
  const device = model.type1(space.fd);
  const write = (iova: number) => expect(device.deviceWrite(iova, PAGE)).toBe(0);
  const tracker = new VfioType1Tracker(space, memory);
  return { space, tracker, model, read: Type1.VFIO_IOMMU_DIRTY_PAGES, unmap: Type1.VFIO_IOMMU_UNMAP_DMA, write };
}

async function logging(): Promise<Place> {
  const { container: space, model, memory, group } = await emptyVm();
  const device = VfioDevice.open(group, 'nic', model);
  alsoOpen.push(device);
  const log = model.devices.get('nic')?.logging as LoggingModel;
  const tracker = new DmaLoggingTracker(device, space, memory);
  const write = (iova: number) => log.deviceWrite(iova, PAGE);
  return { space, tracker, model, read: Type1.VFIO_IOMMU_DIRTY_PAGES, unmap: Type1.VFIO_IOMMU_UNMAP_DMA, write };
}

async function iommufd(): Promise<Place & { readonly device: IommufdModelDevice }> {
  const { model, memory } = await emptyVm();
  const opened = Iommufd.open(model);
  alsoOpen.push(opened);
  const space = opened.allocateIoas();
  const device = model.iommufd(opened.fd).device();
  const pagetable = opened.allocateTracking(device.deviceId, space);
  const write = (iova: number) => expect(device.write(pagetable.id, iova, PAGE)).toBe(2);
  const tracker = new IommufdTracker(pagetable, memory);
  const read = IommufdRequest.IOMMU_HWPT_GET_DIRTY_BITMAP;
  return { space, tracker, model, read, unmap: IommufdRequest.IOMMU_IOAS_UNMAP, write, device };
}

const places = { type1, 'DMA logging': logging, iommufd } as const;

/** Calls `then` once, right after the model has made a call of this number and before its caller hears of it. */
function onceMade(model: VfioModel, request: number, then: () => Promise<unknown> | unknown): void {
  const make = model.ioctlAsync.bind(model);
  let done = false;
  model.ioctlAsync = async (fd, asked, argument) => {
    const result = await make(fd, asked, argument);
    if (asked === request && !done) {
      done = true;
      await then();
    }
    return result;
  };
}

describe.each(Object.entries(places))('%s', (kind, make) => {
  test('an address that is used again between two harvests: each page is credited to whom it belongs', async () => {
    const { space, tracker, write } = await make();
    const first = await map(space, IOVA, 0);
    await tracker.start();
    write(IOVA + 2 * PAGE);
    await space.unmap(first);
    await map(space, IOVA, 64);
    write(IOVA + 3 * PAGE);
    // iommufd cannot tell what was written to a mapping that is gone.
    const before = kind === 'iommufd' ? pages(0) : ['0:2'];
    expect(await harvest(tracker)).toEqual([...before, '0:67']);
    expect(await harvest(tracker)).toEqual([]);
    await tracker.stop();
  });

  test('a mapping that is replaced while another one is read: nothing of either is lost', async () => {
    const { space, tracker, model, write, read } = await make();
    await map(space, IOVA, 0);
    const second = await map(space, IOVA + 8 * PAGE, 16);
    await tracker.start();
    write(second.iova + PAGE);
    onceMade(model, read, async () => {
      await space.unmap(second);
      await map(space, second.iova, 64);
      write(second.iova + 3 * PAGE);
    });
    const [during, later] = [await harvest(tracker), await harvest(tracker)];
    expect(during).toContain('0:17');
    expect([...during, ...later]).toContain('0:67');
    await tracker.stop();
  });

  test('a mapping that is replaced while it is read itself: both are dirty, wholly', async () => {
    const { space, tracker, model, write, read } = await make();
    const only = await map(space, IOVA, 0);
    await tracker.start();
    onceMade(model, read, async () => {
      await space.unmap(only);
      await map(space, IOVA, 64);
      write(IOVA + 3 * PAGE);
    });
    const found = await harvest(tracker);
    expect(found).toEqual([...pages(0), ...pages(64)]);
    await tracker.stop();
  });

  test('an unmap that overtakes a read: the harvest waits for what it owes', async () => {
    const { space, tracker, model, write, read, unmap } = await make();
    const only = await map(space, IOVA, 0);
    await tracker.start();
    write(IOVA + 5 * PAGE);
    const reads = model.ioctlAsync.bind(model);
    let unmapping: Promise<void> | undefined;
    model.ioctlAsync = async (fd, request, argument) => {
      if (request === read && unmapping === undefined) {
        unmapping = space.unmap(only);
        // The kernel has made it, but its caller has not heard of it by the time the read is over.
        await new Promise(setImmediate);
      }
      const result = await reads(fd, request, argument);
      if (request === unmap) for (let turn = 0; turn < 5; turn++) await new Promise(setImmediate);
      return result;
    };
    expect(await harvest(tracker)).toContain('0:5');
    await unmapping;
    expect(space.mappings).toEqual([]);
    await tracker.stop();
  });

  test('changes are made in the order in which they were asked for, and a harvest waits for those under way', async () => {
    const { space, tracker, model, write, unmap } = await make();
    const first = await map(space, IOVA, 0);
    await tracker.start();
    write(IOVA + PAGE);
    let release = (): void => {};
    onceMade(model, unmap, () => new Promise<void>((resolve) => (release = resolve)));
    const changes = [space.unmap(first), map(space, IOVA, 64), space.unmap(first), map(space, IOVA, 32)];
    expect(space.idle).toBe(false);
    let harvested = false;
    const harvesting = harvest(tracker).then((found) => {
      harvested = true;
      return found;
    });
    for (let turn = 0; turn < 20; turn++) await new Promise(setImmediate);
    expect(harvested).toBe(false);
    release();
    await Promise.all(changes);
    expect(await harvesting).toContain('0:1');
    expect([space.idle, space.mappings.map(({ guestPhysicalAddress }) => guestPhysicalAddress / PAGE)]).toEqual([
      true,
      [32],
    ]);
    await tracker.stop();
  });

  test('an unmap that does not come to an end holds a harvest up for a second, and counts as dirty', async () => {
    const { space, tracker, model, write, unmap } = await make();
    const only = await map(space, IOVA, 0);
    await tracker.start();
    write(IOVA + 2 * PAGE);
    let release = (): void => {};
    onceMade(model, unmap, () => new Promise<void>((resolve) => (release = resolve)));
    const unmapping = space.unmap(only);
    jest.useFakeTimers({ doNotFake: ['setImmediate'] });
    const harvesting = harvest(tracker);
    await jest.advanceTimersByTimeAsync(LONGEST_WAIT_MS);
    expect(await harvesting).toEqual(pages(0));
    jest.useRealTimers();
    release();
    await unmapping;
    expect(await harvest(tracker)).toContain('0:2');
    await tracker.stop();
  });

  test('an unmap that fails leaves its mapping on the list, and nothing is lost', async () => {
    const { space, tracker, model, write, unmap } = await make();
    const only = await map(space, IOVA, 0);
    await tracker.start();
    write(IOVA + 3 * PAGE);
    model.failures.set(unmap, Errno.EFAULT);
    await errorOf(() => space.unmap(only));
    model.failures.clear();
    expect(space.mappings).toEqual([only]);
    // A device's own log is asked in any case; what the others knew may be gone.
    expect(await harvest(tracker)).toEqual(kind === 'DMA logging' ? ['0:3'] : pages(0));
    await tracker.stop();
  });
});

test('type1: the size that UNMAP returns is believed: less than was asked, and all of it is dirty', async () => {
  const { space, tracker, model, write } = await type1();
  const only = await map(space, IOVA, 0);
  await tracker.start();
  write(IOVA + 2 * PAGE);
  // Somebody else, who has the same container, has unmapped it and taken its bits.
  const other = Type1Container.adopt((space as Type1Container).fd, [only], model);
  await other.unmap(only);
  await space.unmap(only);
  expect(await harvest(tracker)).toEqual(pages(0));
});

test('DMA logging: a report that an unmap asks for and that fails makes the next harvest fail, with all of it dirty', async () => {
  const { space, tracker, model } = await logging();
  const only = await map(space, IOVA, 0);
  const log = model.devices.get('nic')?.logging as LoggingModel;
  await tracker.start();
  log.cannotReport = true;
  await space.unmap(only);
  log.cannotReport = false;
  const into = new DirtyBitmaps((vm as ModelledVm).memory);
  expect((await errorOf(() => tracker.harvest(into))).code).toBe('GODWIT_TRACKER_FAILED');
  expect(dirtyPages((vm as ModelledVm).memory, into)).toEqual(pages(0));
  expect(await harvest(tracker)).toEqual([]);
  await tracker.stop();
});

describe('iommufd: a mapping that goes', () => {
  test('with its devices stopped: its bits are exact', async () => {
    const { space, tracker, write } = await iommufd();
    const only = await map(space, IOVA, 0);
    await tracker.start();
    write(IOVA + 2 * PAGE);
    await (space as Ioas).unmap(only, { stopped: true });
    expect(await harvest(tracker)).toEqual(['0:2']);
    await tracker.stop();
  });

  test('with its devices stopped, but of which the kernel found less than was asked: all of it is dirty', async () => {
    const { space, tracker, model, unmap, write } = await iommufd();
    const only = await map(space, IOVA, 0);
    await tracker.start();
    write(IOVA + 2 * PAGE);
    const make = model.ioctlAsync.bind(model);
    model.ioctlAsync = async (fd, request, argument) => {
      const result = await make(fd, request, argument);
      if (request === unmap) new StructBuffer(IOMMU_IOAS_UNMAP, argument as Uint8Array).set('length', PAGE);
      return result;
    };
    await (space as Ioas).unmap(only, { stopped: true });
    expect(await harvest(tracker)).toEqual(pages(0));
    await tracker.stop();
  });

  test('with its devices stopped, but bits that cannot be read: all of it is dirty', async () => {
    const { space, tracker, model, read, write } = await iommufd();
    const only = await map(space, IOVA, 0);
    await tracker.start();
    write(IOVA + 2 * PAGE);
    model.failures.set(read, Errno.ENOMEM);
    await (space as Ioas).unmap(only, { stopped: true });
    model.failures.clear();
    expect(await harvest(tracker)).toEqual(pages(0));
    await tracker.stop();
  });
});

test('100,000 mappings are read in calls that are made at once, but for large ones', async () => {
  const { space, model, read } = await type1();
  const count = 100_000;
  const [block] = (vm as ModelledVm).memory.blocks;
  const mappings = Array.from({ length: count }, (_, i) => ({
    iova: i * 2 * PAGE,
    byteLength: PAGE,
    guestPhysicalAddress: (i % 256) * PAGE,
  }));
  let onPool = 0;
  let atOnce = 0;
  const kernel = {
    open: () => 0,
    close: () => {},
    read: async () => 0,
    write: async () => 0,
    ioctl: (fd: number, request: number, argument?: Parameters<VfioModel['ioctl']>[2]) => {
      if (request === read) atOnce++;
      return request === read ? 0 : model.ioctl(fd, request, argument);
    },
    ioctlAsync: async (_fd: number, request: number) => {
      if (request === read) onPool++;
      return 0;
    },
  };
  expect(block).toBeDefined();
  const container = Type1Container.adopt((space as Type1Container).fd, mappings, kernel);
  const tracker = new VfioType1Tracker(container, (vm as ModelledVm).memory);
  await tracker.start();
  onPool = 0;
  expect(await harvest(tracker)).toEqual([]);
  expect([atOnce + onPool, tracker.lastHarvest.mappedPages]).toEqual([count, count]);
  // A machine that is busy elsewhere may make calls look slow for a while.
  expect(atOnce).toBeGreaterThan(count / 100);
  await tracker.stop();
});

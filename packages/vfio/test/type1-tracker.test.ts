import { DirtyBitmaps } from '@godwit/core';
import { Errno, viewOf } from '@godwit/linux/unstable';
import { type DmaMapping, type KernelPort, Type1Container, VfioType1Tracker } from '@godwit/vfio';
import { Type1 } from '@godwit/vfio/unstable';
import { afterEach, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { errorOf } from './error-of.js';
import { dirtyPages, type ModelledVm, modelledVm, PAGE } from './model.js';

let vm: ModelledVm | undefined;
afterEach(() => {
  vm?.close();
  vm = undefined;
});

async function tracked(...options: Parameters<typeof modelledVm>) {
  vm = await modelledVm(...options);
  const tracker = new VfioType1Tracker(vm.container, vm.memory);
  const { memory, model, container } = vm;
  const harvest = async () => {
    const into = new DirtyBitmaps(memory);
    await tracker.harvest(into);
    return dirtyPages(memory, into);
  };
  return { tracker, memory, model, container, device: model.type1(container.fd), harvest };
}

describe('devices that pin the pages they use', () => {
  test('a page written by a device is reported once, in whichever block', async () => {
    const { tracker, device, harvest, memory } = await tracked([64, 70]);
    await tracker.start();
    device.deviceWrite(3 * PAGE, 2 * PAGE);
    device.deviceWrite((memory.blocks[1]?.guestPhysicalAddress as number) + 69 * PAGE, PAGE);
    expect(await harvest()).toEqual(['0:3', '0:4', '1:69']);
    expect(await harvest()).toEqual([]);
    await tracker.stop();
  });

  test('a pinned page is dirty at every harvest, and once more after it was unpinned', async () => {
    const { tracker, device, harvest } = await tracked();
    device.pin(5 * PAGE, PAGE);
    await tracker.start();
    expect(await harvest()).toEqual(['0:5']);
    expect(await harvest()).toEqual(['0:5']);
    device.unpin(5 * PAGE, PAGE);
    expect(await harvest()).toEqual(['0:5']);
    expect(await harvest()).toEqual([]);
    expect(tracker.exact).toBe(false);
  });

  test('what was written before the start, or after the stop, is not reported', async () => {
    const { tracker, device, harvest } = await tracked();
    device.deviceWrite(0, PAGE);
    await tracker.start();
    expect(await harvest()).toEqual([]);
    device.deviceWrite(PAGE, PAGE);
    await tracker.stop();
    device.deviceWrite(2 * PAGE, PAGE);
    await tracker.start();
    expect(await harvest()).toEqual([]);
  });

  test('a harvest ORs', async () => {
    const { tracker, device, memory } = await tracked();
    await tracker.start();
    const into = new DirtyBitmaps(memory);
    into.at(0).set(1);
    device.deviceWrite(2 * PAGE, PAGE);
    await tracker.harvest(into);
    expect(dirtyPages(memory, into)).toEqual(['0:1', '0:2']);
  });

  test('one call for each mapping, at its own address', async () => {
    const { tracker, model, harvest } = await tracked([64, 1, 65]);
    await tracker.start();
    model.requests.length = 0;
    await harvest();
    expect(model.requests).toEqual(Array(3).fill(Type1.VFIO_IOMMU_DIRTY_PAGES));
  });
});

test('behind an IOMMU every mapped page is dirty every time, and the statistics say for how long', async () => {
  const { tracker, harvest } = await tracked([8, 3], { iommu: true });
  await tracker.start();
  expect(await harvest()).toHaveLength(11);
  expect(await harvest()).toHaveLength(11);
  expect(tracker.lastHarvest).toEqual({ mappedPages: 11, dirtyPages: 11, allDirtyInARow: 2 });
});

describe('a mapping that goes while pages are tracked', () => {
  test('leaves its dirty bits to the next harvest', async () => {
    const { tracker, device, container, harvest } = await tracked([64, 70]);
    await tracker.start();
    device.deviceWrite(9 * PAGE, PAGE);
    await container.unmap(container.mappings[0] as DmaMapping);
    expect(container.mappings).toHaveLength(1);
    expect(await harvest()).toEqual(['0:9']);
    expect(await harvest()).toEqual([]);
  });

  test('counts as dirty, all of it, when the kernel fails to say', async () => {
    const { tracker, model, container, harvest } = await tracked([4, 2]);
    await tracker.start();
    model.failures.set(Type1.VFIO_IOMMU_UNMAP_DMA, Errno.EFAULT);
    const error = await errorOf(() => container.unmap(container.mappings[1] as DmaMapping));
    expect(error.message).toMatch(/VFIO_IOMMU_UNMAP_DMA of 8192 bytes at IOVA 0x14000 failed: EFAULT/);
    model.failures.clear();
    expect(await harvest()).toEqual(['1:0', '1:1']);
  });

  test('takes its bits along when nobody tracks', async () => {
    const { device, container, tracker, harvest } = await tracked();
    device.deviceWrite(0, PAGE);
    await container.unmap(container.mappings[0] as DmaMapping);
    await tracker.start();
    expect(await harvest()).toEqual([]);
  });
});

test('what an earlier harvest found does not come back when the kernel leaves the bitmap untouched', async () => {
  const { tracker, model, device, container, harvest } = await tracked([64]);
  await tracker.start();
  device.deviceWrite(PAGE, PAGE);
  expect(await harvest()).toEqual(['0:1']);
  // Unmapped behind our back: the kernel has nothing to say about the range, and says 0.
  const unmap = new Uint8Array(new BigUint64Array([24n, 0n, BigInt(64 * PAGE)]).buffer);
  expect(model.ioctl(container.fd, Type1.VFIO_IOMMU_UNMAP_DMA, unmap)).toBe(0);
  expect(await harvest()).toEqual([]);
});

test('bits past the last page of a mapping do not count', async () => {
  vm = await modelledVm([3]);
  const { model, memory, container } = vm;
  const careless: KernelPort = {
    open: (path) => model.open(path),
    close: (fd) => model.close(fd),
    ioctl: (fd, request, argument) => model.ioctl(fd, request, argument),
    read: (fd, buffer) => model.read(fd, buffer),
    write: (fd, buffer) => model.write(fd, buffer),
    ioctlAsync: async (fd, request, argument) => {
      const result = model.ioctl(fd, request, argument);
      if (typeof argument !== 'object' || argument.byteLength !== 48) return result;
      // What 6.12 leaves there when several mappings are asked for at once.
      viewOf(new DataView(argument.buffer, argument.byteOffset).getBigUint64(40, true), 8).fill(0xff);
      return result;
    },
  };
  const adopted = Type1Container.adopt(container.fd, container.mappings, careless);
  const tracker = new VfioType1Tracker(adopted, memory);
  await tracker.start();
  await tracker.harvest(new DirtyBitmaps(memory));
  expect(tracker.lastHarvest).toEqual({ mappedPages: 3, dirtyPages: 3, allDirtyInARow: 1 });
});

test('a mapping that comes while pages are tracked is tracked', async () => {
  const { tracker, device, container, memory, harvest } = await tracked([64, 8]);
  const second = container.mappings[1] as DmaMapping;
  await container.unmap(second);
  await tracker.start();
  await container.map({ ...second, hostAddress: memory.blocks[1]?.hostAddress as bigint });
  device.deviceWrite(second.iova + PAGE, PAGE);
  expect(await harvest()).toEqual(['1:1']);
});

test('a bitmap that cannot be read makes its mapping dirty, and the harvest fails', async () => {
  const { tracker, model, memory } = await tracked([3]);
  await tracker.start();
  model.failures.set(Type1.VFIO_IOMMU_DIRTY_PAGES, Errno.EFAULT);
  const into = new DirtyBitmaps(memory);
  const error = await errorOf(() => tracker.harvest(into));
  expect(error.code).toBe('GODWIT_TRACKER_FAILED');
  expect(error.message).toMatch(/GET_BITMAP of 12288 bytes at IOVA 0x0 failed: EFAULT/);
  expect(into.count()).toBe(3);
});

test('an adopted container is left alone, and tracked', async () => {
  const { container, model, memory, device } = await tracked();
  const adopted = Type1Container.adopt(container.fd, container.mappings, model);
  const tracker = new VfioType1Tracker(adopted, memory, 'theirs');
  expect(tracker.name).toBe('theirs');
  await tracker.start();
  device.deviceWrite(0, PAGE);
  const into = new DirtyBitmaps(memory);
  await tracker.harvest(into);
  expect(into.count()).toBe(1);
  await tracker.stop();
  adopted.close();
  expect(model.ioctl(container.fd, 0x3b64)).toBe(0);
});

test('a container that cannot track says so', async () => {
  vm = await modelledVm([1], { tracking: false });
  const { container, memory } = vm;
  const error = await errorOf(() => new VfioType1Tracker(container, memory));
  expect(error.code).toBe('GODWIT_UNSUPPORTED');
  expect(error.message).toMatch(/no migration capability/);
});

test('starting twice, harvesting without starting: wrong order is named', async () => {
  const { tracker, memory, container } = await tracked();
  expect((await errorOf(() => tracker.harvest(new DirtyBitmaps(memory)))).code).toBe('GODWIT_INVALID_STATE');
  await tracker.stop();
  await tracker.start();
  const second = new VfioType1Tracker(container, memory);
  expect((await errorOf(() => second.start())).code).toBe('GODWIT_INVALID_STATE');
  await tracker.stop();
  await tracker.stop();
  await second.start();
});

test('a mapping that is too large for one bitmap is refused before tracking starts', async () => {
  const { container, model, memory } = await tracked([1]);
  const huge = { iova: 2 ** 44, guestPhysicalAddress: 2 ** 44, byteLength: 2 ** 43 + PAGE * 64 };
  const adopted = Type1Container.adopt(container.fd, [...container.mappings, huge], model);
  const error = await errorOf(() => new VfioType1Tracker(adopted, memory).start());
  expect(error.message).toMatch(/Map memory in smaller pieces/);
});

test('random sequences of map, unmap, write, pin, unpin and harvest: nothing written is ever missed', async () => {
  const step = fc.record({
    kind: fc.constantFrom('write', 'pin', 'unpin', 'harvest', 'unmap', 'map'),
    block: fc.nat(2),
    page: fc.nat(69),
    pages: fc.integer({ min: 1, max: 5 }),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
      const { tracker, device, container, memory, harvest } = await tracked([70, 64, 5]);
      const at = memory.blocks.map(({ guestPhysicalAddress, byteLength }) => ({ guestPhysicalAddress, byteLength }));
      /** What must be reported at the next harvest, and what is pinned. */
      const owed = new Set<string>();
      const pins = new Map<string, number>();
      await tracker.start();
      for (const { kind, block, page, pages } of steps) {
        const { guestPhysicalAddress, byteLength } = at[block] as (typeof at)[number];
        const limit = byteLength / PAGE;
        const first = page % limit;
        const run = Array.from({ length: Math.min(pages, limit - first) }, (_, i) => `${block}:${first + i}`);
        const [iova, length] = [guestPhysicalAddress + first * PAGE, run.length * PAGE];
        const mapped = container.mappings.find((mapping) => mapping.iova === guestPhysicalAddress);
        if (kind === 'harvest') {
          const found = await harvest();
          const pinned = [...pins].filter(([, count]) => count > 0).map(([name]) => name);
          expect(found.sort()).toEqual([...new Set([...owed, ...pinned])].sort());
          owed.clear();
          for (const name of pinned) owed.add(name);
        } else if (kind === 'map') {
          const hostAddress = memory.blocks[block]?.hostAddress as bigint;
          if (mapped === undefined) {
            await container.map({ iova: guestPhysicalAddress, guestPhysicalAddress, byteLength, hostAddress });
          }
        } else if (mapped === undefined) {
          expect(device.deviceWrite(iova, length)).toBe(-Errno.EINVAL);
        } else if (kind === 'unmap') {
          await container.unmap(mapped);
          for (const name of [...pins.keys()]) if (name.startsWith(`${block}:`)) pins.delete(name);
        } else if (kind === 'write') {
          device.deviceWrite(iova, length);
          for (const name of run) owed.add(name);
        } else if (kind === 'pin') {
          device.pin(iova, length);
          for (const name of run) {
            pins.set(name, (pins.get(name) ?? 0) + 1);
            owed.add(name);
          }
        } else {
          device.unpin(iova, length);
          for (const name of run) pins.set(name, Math.max(0, (pins.get(name) ?? 0) - 1));
        }
      }
      vm?.close();
      vm = undefined;
    }),
    { numRuns: 60 },
  );
});

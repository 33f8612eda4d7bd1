import { DirtyBitmaps } from '@godwit/core';
import { Errno } from '@godwit/linux/unstable';
import {
  chooseTrackers,
  DmaLoggingTracker,
  type DmaMapping,
  HardwarePagetable,
  Iommufd,
  trackersOf,
  VfioDevice,
} from '@godwit/vfio';
import { type DeviceModel, type LoggingModel, VfioModel } from '@godwit/vfio/testing';
import { DeviceFeature, loggedRanges } from '@godwit/vfio/unstable';
import { afterEach, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { errorOf } from './error-of.js';
import { dirtyPages, type ModelledVm, modelledVm, PAGE } from './model.js';

describe('ranges to log', () => {
  const mapping = fc.record({ gap: fc.nat(20), pages: fc.integer({ min: 1, max: 9 }) });

  test('cover every mapping, apart and ascending, with no more of them than are taken and no more gaps than need be', () => {
    fc.assert(
      fc.property(fc.array(mapping, { maxLength: 30 }), fc.integer({ min: 1, max: 12 }), (layout, most) => {
        let at = 0;
        const mappings = layout.map(({ gap, pages }): DmaMapping => {
          const iova = at + gap * PAGE;
          at = iova + pages * PAGE;
          return { iova, byteLength: pages * PAGE, guestPhysicalAddress: iova };
        });
        const ranges = loggedRanges([...mappings].reverse(), most);
        expect(ranges.length).toBeLessThanOrEqual(most);
        for (const { iova, byteLength } of mappings) {
          expect(ranges.some((range) => range.iova <= iova && iova + byteLength <= range.iova + range.byteLength)).toBe(
            true,
          );
        }
        for (const [i, range] of ranges.slice(1).entries()) {
          const before = ranges[i] as (typeof ranges)[number];
          expect(range.iova).toBeGreaterThan(before.iova + before.byteLength);
        }
        // What is logged beside the mappings are the smallest gaps, as many as had to be.
        const gaps = layout
          .map(({ gap }) => gap * PAGE)
          .slice(1)
          .filter((gap) => gap > 0)
          .sort((a, b) => a - b);
        const logged = ranges.reduce((sum, { byteLength }) => sum + byteLength, 0);
        const mapped = mappings.reduce((sum, { byteLength }) => sum + byteLength, 0);
        const closed = gaps.slice(0, Math.max(0, gaps.length + 1 - most)).reduce((sum, gap) => sum + gap, 0);
        expect(logged - mapped).toBe(closed);
      }),
    );
  });
});

let vm: ModelledVm | undefined;
let device: VfioDevice | undefined;
afterEach(() => {
  device?.close();
  vm?.close();
  vm = undefined;
  device = undefined;
});

async function logging(pages: readonly number[] = [64, 70], options = {}) {
  vm = await modelledVm(pages, options, { devices: { nic: { logging: true }, plain: {} } });
  const { memory, container, group, model } = vm;
  const opened = VfioDevice.open(group, 'nic', model);
  device = opened;
  const log = (model.devices.get('nic') as DeviceModel).logging as LoggingModel;
  const tracker = new DmaLoggingTracker(opened, container, memory);
  const harvest = async () => {
    const into = new DirtyBitmaps(memory);
    await tracker.harvest(into);
    return dirtyPages(memory, into);
  };
  return { memory, container, group, model, device: opened, log, tracker, harvest };
}

test('what the device logged, once', async () => {
  const { tracker, log, harvest, memory } = await logging();
  await tracker.start();
  expect(tracker.exact).toBe(true);
  log.deviceWrite(3 * PAGE, 2 * PAGE);
  log.deviceWrite((memory.blocks[1]?.guestPhysicalAddress as number) + 69 * PAGE, 1);
  expect(await harvest()).toEqual(['0:3', '0:4', '1:69']);
  expect(await harvest()).toEqual([]);
  await tracker.stop();
  expect(log.running).toBe(false);
});

test('a kernel that cannot report: found out when it is started, and nothing is left running', async () => {
  const { tracker, log } = await logging();
  log.cannotReport = true;
  const error = await errorOf(() => tracker.start());
  expect(error.message).toMatch(/CONFIG_IOMMUFD_DRIVER/);
  expect(log.running).toBe(false);
});

test('a device that takes one range only gets one', async () => {
  const { tracker, log } = await logging();
  log.mostRanges = 1;
  await tracker.start();
  expect(tracker.ranges).toEqual([{ iova: 0, byteLength: (64 + 16 + 70) * PAGE }]);
});

test('a report that fails makes everything dirty, and the harvest fails', async () => {
  const { tracker, memory, log } = await logging([3, 2]);
  await tracker.start();
  log.cannotReport = true;
  const into = new DirtyBitmaps(memory);
  expect((await errorOf(() => tracker.harvest(into))).code).toBe('GODWIT_TRACKER_FAILED');
  expect(into.count()).toBe(5);
});

test('bits outlive their mapping; memory that is mapped later, outside of what is logged, is always dirty', async () => {
  const { tracker, log, harvest, container, memory } = await logging([64, 3]);
  const [first, second] = container.mappings as [DmaMapping, DmaMapping];
  await container.unmap(second);
  await tracker.start();
  log.deviceWrite(PAGE, PAGE);
  await container.unmap(first);
  await container.map({ ...second, hostAddress: memory.blocks[1]?.hostAddress as bigint });
  expect(await harvest()).toEqual(['0:1', '1:0', '1:1', '1:2']);
  expect(await harvest()).toEqual(['1:0', '1:1', '1:2']);
});

test('pages larger than the kernel can report smaller ones in, and smaller ones', async () => {
  const { device: opened, container, log, memory } = await logging([64]);
  for (const pageSize of [1024, 16_384]) {
    const coarse = { pageSize, blocks: memory.blocks };
    const tracker = new DmaLoggingTracker(opened, container, coarse);
    await tracker.start();
    expect(tracker.exact).toBe(pageSize >= PAGE);
    log.deviceWrite(5 * PAGE, 1);
    const into = new DirtyBitmaps(coarse);
    await tracker.harvest(into);
    const first = Math.floor((5 * PAGE) / pageSize);
    expect(dirtyPages(coarse, into)).toEqual(
      Array.from({ length: Math.max(1, PAGE / pageSize) }, (_, i) => `0:${first + i}`),
    );
    await tracker.stop();
  }
});

describe('the choice of a tracker', () => {
  test('a device that logs is asked itself; the others share their container', async () => {
    const { group, container, memory, model, device: nic } = await logging();
    const plain = [1, 2].map(() => VfioDevice.open(group, 'plain', model));
    const devices = [nic, ...plain].map((one) => ({ device: one, space: container }));
    const choices = await chooseTrackers(devices, memory);
    expect(choices.map(({ tracker }) => tracker.name)).toEqual(['vfio-dma-log nic', 'vfio-type1', 'vfio-type1']);
    expect(choices[1]?.passedOver).toEqual(['plain does not log its own DMA']);
    expect(trackersOf(choices)).toHaveLength(2);
    for (const one of plain) one.close();
  });

  test('a log that cannot be read is passed over, and why is told', async () => {
    const { container, memory, device: nic, log } = await logging();
    log.cannotReport = true;
    const [choice] = await chooseTrackers([{ device: nic, space: container }], memory);
    expect(choice?.tracker.name).toBe('vfio-type1');
    expect(choice?.passedOver[0]).toMatch(/EOPNOTSUPP/);
  });

  test('trackers of one kind have names of their own', async () => {
    const { container, memory, device: nic, model } = await logging();
    const twin = VfioDevice.adopt(nic.fd, 'nic', model);
    const iommufd = Iommufd.open(model);
    const ioas = iommufd.allocateIoas();
    const behind = (id: number) => {
      const device = VfioDevice.adopt(1, `d${id}`, Object.assign(new VfioModel([]), { ioctl: () => -Errno.ENOTTY }));
      return { device, space: ioas, pagetable: new HardwarePagetable(iommufd, id, ioas) };
    };
    const logs = [nic, twin].map((device) => ({ device, space: container }));
    const choices = await chooseTrackers([...logs, behind(1), behind(2)], memory);
    expect(choices.map(({ tracker }) => tracker.name)).toEqual([
      'vfio-dma-log nic',
      'vfio-dma-log nic-2',
      'iommufd',
      'iommufd-2',
    ]);
    // Trying it out has shown how it logs.
    expect(choices[0]?.tracker.exact).toBe(true);
    iommufd.close();
  });

  test('a device that nobody would see blocks the migration, and is not tracked', async () => {
    const { group, container, memory, model } = await logging([4], { tracking: false });
    const plain = VfioDevice.open(group, 'plain', model);
    const [choice] = await chooseTrackers([{ device: plain, space: container }], memory);
    expect(await choice?.tracker.migrationBlocker?.()).toMatch(
      /^nobody would see what plain writes: plain does not log its own DMA; .* Unplug it for the migration, or /,
    );
    expect((await errorOf(() => choice?.tracker.start())).code).toBe('GODWIT_UNSUPPORTED');
    expect((await errorOf(() => choice?.tracker.harvest(new DirtyBitmaps(memory)))).code).toBe('GODWIT_INVALID_STATE');
    await choice?.tracker.stop();
    plain.close();
  });
});

test('starting fails with the errno that the kernel gave', async () => {
  const { tracker, model } = await logging();
  model.failures.set(DeviceFeature.VFIO_DEVICE_FEATURE, Errno.ENOMEM);
  expect((await errorOf(() => tracker.start())).message).toMatch(/DMA_LOGGING_START of 2 ranges on nic failed: ENOMEM/);
  model.failures.clear();
});

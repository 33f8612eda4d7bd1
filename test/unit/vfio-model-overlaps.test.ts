import { createGuestMemory, type MappedGuestMemory } from '@godwit/linux';
import {
  DmaLoggingTracker,
  Iommufd,
  IommufdTracker,
  Type1Container,
  VfioDevice,
  VfioGroup,
  VfioType1Tracker,
} from '@godwit/vfio';
import { type LoggingModel, VfioModel } from '@godwit/vfio/testing';
import { LONGEST_WAIT_MS } from '@godwit/vfio/unstable';
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { MOCK_APERTURE } from '../kernel/guest/mock-iommu.js';
import { HeldCalls } from '../kernel/sequences/held-calls.js';
import { leaveOutOrder, type OrderPart } from '../kernel/sequences/order-left-out.js';
import { type OverlapPlace, runOverlappingSequence } from '../kernel/sequences/overlapping-sequence.js';
import { OVERLAP_BLOCKS, SEQUENCES, seedsOf } from '../kernel/sequences/sequence-plan.js';

/** 1,000 random sequences of overlapping changes, writes and harvests for each tracker. `npm run test:kernel` runs them on the kernel. */

let memory: MappedGuestMemory;
let model: VfioModel;
let calls: HeldCalls;
let close: () => void;
beforeEach(() => {
  memory = createGuestMemory({ blocks: OVERLAP_BLOCKS });
  model = new VfioModel([{ number: 7, devices: { nic: { logging: true } } }]);
  calls = new HeldCalls(model);
});
afterEach(() => {
  close();
  memory.close();
  expect(model.openDescriptors).toBe(0);
});

function container(): { group: VfioGroup; space: Type1Container } {
  const group = VfioGroup.open(7, calls);
  const space = Type1Container.open([group], calls);
  close = () => {
    space.close();
    group.close();
  };
  return { group, space };
}

const places: Record<string, () => OverlapPlace> = {
  VFIO_IOMMU_DIRTY_PAGES: () => {
    const { space } = container();
    const type1 = model.type1(space.fd);
    const write = (iova: number) => type1.deviceWrite(iova, 8);
    return { space, tracker: new VfioType1Tracker(space, memory), memory, calls, iova: 0, write };
  },
  'DMA logging': () => {
    const { group, space } = container();
    const device = VfioDevice.open(group, 'nic', calls);
    const closeContainer = close;
    close = () => {
      device.close();
      closeContainer();
    };
    const log = model.devices.get('nic')?.logging as LoggingModel;
    const write = (iova: number) => {
      log.deviceWrite(iova, 8);
      return 0;
    };
    return { space, tracker: new DmaLoggingTracker(device, space, memory), memory, calls, iova: 0, write };
  },
  iommufd: () => {
    const iommufd = Iommufd.open(calls);
    close = () => iommufd.close();
    const space = iommufd.allocateIoas();
    const device = model.iommufd(iommufd.fd).device();
    const pagetable = iommufd.allocateTracking(device.deviceId, space);
    const tracker = new IommufdTracker(pagetable, memory);
    const write = (iova: number) => device.write(pagetable.id, iova, 8);
    return { space, tracker, memory, calls, iova: MOCK_APERTURE.start, write };
  },
};

const PARTS: readonly (readonly [place: string, part: OrderPart])[] = [
  ['VFIO_IOMMU_DIRTY_PAGES', 'isMapped'],
  ['VFIO_IOMMU_DIRTY_PAGES', 'reading'],
  ['VFIO_IOMMU_DIRTY_PAGES', 'changesDone'],
  ['DMA logging', 'listen'],
];

test.each(PARTS)('%s: with `%s` alone left out of the order, pages are lost', async (name, part) => {
  const made = (places[name] as () => OverlapPlace)();
  leaveOutOrder(made.space, [part]);
  await expect(
    (async () => {
      for (const seed of seedsOf(0, 499)) await runOverlappingSequence(made, seed);
    })(),
  ).rejects.toThrow('written and not reported');
});

describe.each(Object.entries(places))('%s', (_name, place) => {
  test.each(SEQUENCES)('nothing is lost: seeds %i to %i', async (first, last) => {
    const made = place();
    for (const seed of seedsOf(first, last)) await runOverlappingSequence(made, seed);
  });

  test.each(SEQUENCES.slice(0, 3))(
    'nothing is lost where a harvest waits no longer for changes: seeds %i to %i',
    async (first, last) => {
      jest.useFakeTimers({ doNotFake: ['setImmediate', 'nextTick', 'queueMicrotask', 'performance'] });
      try {
        const made = { ...place(), timePasses: () => void jest.advanceTimersByTime(LONGEST_WAIT_MS) };
        for (const seed of seedsOf(first, last)) await runOverlappingSequence(made, seed);
      } finally {
        jest.useRealTimers();
      }
    },
  );

  test('with the order left out, pages are lost', async () => {
    const made = place();
    leaveOutOrder(made.space);
    await expect(
      (async () => {
        for (const seed of seedsOf(0, 99)) await runOverlappingSequence(made, seed);
      })(),
    ).rejects.toThrow('written and not reported');
  });
});

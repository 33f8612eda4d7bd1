import { createGuestMemory, type MappedGuestMemory } from '@godwit/linux';
import { DmaLoggingTracker, Iommufd, IommufdTracker, Type1Container, VfioDevice, VfioGroup } from '@godwit/vfio';
import { linuxKernel } from '@godwit/vfio/unstable';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { DmaDevice } from '../guest/dma-device.js';
import { MediatedDevice } from '../guest/mediated-device.js';
import { MOCK_APERTURE, MockDevice } from '../guest/mock-iommu.js';
import { HeldCalls } from '../sequences/held-calls.js';
import { leaveOutOrder } from '../sequences/order-left-out.js';
import { type OverlapPlace, runOverlappingSequence } from '../sequences/overlapping-sequence.js';
import { OVERLAP_BLOCKS, SEQUENCES, seedsOf } from '../sequences/sequence-plan.js';

/**
 * 1,000 random sequences of overlapping changes, writes and harvests for the trackers that Debian's kernel does not
 * support.
 */

const calls = new HeldCalls(linuxKernel);
let memory: MappedGuestMemory;
let close: () => void;
beforeEach(() => {
  memory = createGuestMemory({ blocks: OVERLAP_BLOCKS });
});
afterEach(() => {
  close();
  memory.close();
});

const places: Record<string, () => OverlapPlace> = {
  'DMA logging': () => {
    const mediated = new MediatedDevice('godwit-dma');
    const group = VfioGroup.open(mediated.group, calls);
    const space = Type1Container.open([group], calls);
    const file = VfioDevice.open(group, mediated.name, calls);
    close = () => {
      file.close();
      space.close();
      group.close();
      mediated.remove();
    };
    const device = new DmaDevice(file.fd);
    const write = (iova: number) => device.write(iova, Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8));
    return { space, tracker: new DmaLoggingTracker(file, space, memory), memory, calls, iova: 0, write };
  },
  'iommufd, with a mock IOMMU': () => {
    const iommufd = Iommufd.open(calls);
    close = () => iommufd.close();
    const space = iommufd.allocateIoas();
    const device = new MockDevice(iommufd.fd, space.id);
    const pagetable = iommufd.allocateTracking(device.deviceId, space);
    if (device.attach(pagetable.id) < 0) throw new Error('the mock device was not attached');
    const tracker = new IommufdTracker(pagetable, memory);
    const write = (iova: number) => device.write(pagetable.id, iova, 8);
    return { space, tracker, memory, calls, iova: MOCK_APERTURE.start, write };
  },
};

describe.each(Object.entries(places))('%s', (_name, make) => {
  test.each(SEQUENCES)(
    'nothing is lost: seeds %i to %i',
    async (first, last) => {
      const place = make();
      for (const seed of seedsOf(first, last)) await runOverlappingSequence(place, seed);
      expect(place.space.mappings).toEqual([]);
    },
    600_000,
  );

  test('with the order left out, pages are lost', async () => {
    const place = make();
    leaveOutOrder(place.space);
    await expect(
      (async () => {
        for (const seed of seedsOf(0, 99)) await runOverlappingSequence(place, seed);
      })(),
    ).rejects.toThrow('written and not reported');
  }, 600_000);
});

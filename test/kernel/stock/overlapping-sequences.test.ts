import { createGuestMemory, type MappedGuestMemory } from '@godwit/linux';
import { Type1Container, VfioDevice, VfioGroup, VfioType1Tracker } from '@godwit/vfio';
import { linuxKernel } from '@godwit/vfio/unstable';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { DmaDevice } from '../guest/dma-device.js';
import { MediatedDevice } from '../guest/mediated-device.js';
import { HeldCalls } from '../sequences/held-calls.js';
import { leaveOutOrder } from '../sequences/order-left-out.js';
import { type OverlapPlace, runOverlappingSequence } from '../sequences/overlapping-sequence.js';
import { OVERLAP_BLOCKS, SEQUENCES, seedsOf } from '../sequences/sequence-plan.js';

/**
 * 1,000 random sequences of overlapping changes, writes and harvests, for type1, on the real kernel. `npm test` runs them on
 * the model.
 */

const calls = new HeldCalls(linuxKernel);
let mediated: MediatedDevice;
let group: VfioGroup;
let space: Type1Container;
let file: VfioDevice;
let memory: MappedGuestMemory;
let place: OverlapPlace;

beforeEach(() => {
  mediated = new MediatedDevice('godwit-dma');
  group = VfioGroup.open(mediated.group, calls);
  space = Type1Container.open([group], calls);
  file = VfioDevice.open(group, mediated.name, calls);
  memory = createGuestMemory({ blocks: OVERLAP_BLOCKS });
  const device = new DmaDevice(file.fd);
  const write = (iova: number) => device.write(iova, Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8));
  place = { space, tracker: new VfioType1Tracker(space, memory), memory, calls, iova: 0, write };
});
afterEach(() => {
  file.close();
  space.close();
  group.close();
  memory.close();
  mediated.remove();
});

test.each(SEQUENCES)(
  'nothing is lost: seeds %i to %i',
  async (first, last) => {
    for (const seed of seedsOf(first, last)) await runOverlappingSequence(place, seed);
    expect(space.mappings).toEqual([]);
  },
  600_000,
);

test('with the order left out, pages are lost', async () => {
  leaveOutOrder(space);
  await expect(
    (async () => {
      for (const seed of seedsOf(0, 99)) await runOverlappingSequence(place, seed);
    })(),
  ).rejects.toThrow('written and not reported');
}, 600_000);

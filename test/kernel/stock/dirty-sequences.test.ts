import { createGuestMemory, type MappedGuestMemory } from '@godwit/linux';
import { Type1Container, VfioDevice, VfioGroup } from '@godwit/vfio';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { DmaDevice } from '../guest/dma-device.js';
import { MediatedDevice } from '../guest/mediated-device.js';
import { runDirtySequence } from '../sequences/dirty-sequence.js';
import { SEQUENCE_BLOCKS, SEQUENCES, seedsOf } from '../sequences/sequence-plan.js';

/** 1,000 random sequences on the real kernel. `npm test` runs the same sequences on the model. */

let mediated: MediatedDevice;
let group: VfioGroup;
let container: Type1Container;
let file: VfioDevice;
let memory: MappedGuestMemory;

beforeAll(() => {
  mediated = new MediatedDevice('godwit-dma');
  group = VfioGroup.open(mediated.group);
  container = Type1Container.open([group]);
  file = VfioDevice.open(group, mediated.name);
  memory = createGuestMemory({ blocks: SEQUENCE_BLOCKS });
});
afterAll(() => {
  file.close();
  container.close();
  group.close();
  memory.close();
  mediated.remove();
});

test.each(SEQUENCES)(
  'map, unmap, write, pin, unpin, harvest: seeds %i to %i',
  async (first, last) => {
    const device = new DmaDevice(file.fd);
    for (const seed of seedsOf(first, last)) await runDirtySequence({ container, memory, device }, seed);
    expect(container.mappings).toEqual([]);
  },
  600_000,
);

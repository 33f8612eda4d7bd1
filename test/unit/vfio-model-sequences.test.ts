import { createGuestMemory, type MappedGuestMemory } from '@godwit/linux';
import { Type1Container, VfioGroup } from '@godwit/vfio';
import { VfioModel } from '@godwit/vfio/testing';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { type DmaWriter, runDirtySequence } from '../kernel/sequences/dirty-sequence.js';
import { SEQUENCE_BLOCKS, SEQUENCES, seedsOf } from '../kernel/sequences/sequence-plan.js';

/** The random sequences that `npm run test:kernel` runs on the kernel, on the model. */

let memory: MappedGuestMemory;
let model: VfioModel;
let group: VfioGroup;
let container: Type1Container;

beforeEach(() => {
  memory = createGuestMemory({ blocks: SEQUENCE_BLOCKS });
  model = new VfioModel([{ number: 7 }]);
  group = VfioGroup.open(7, model);
  container = Type1Container.open([group], model);
});
afterEach(() => {
  container.close();
  group.close();
  memory.close();
});

/** The model keeps no bytes, only the places of writes; it does not learn of a write to a pinned page. */
function modelDevice(): DmaWriter {
  const type1 = model.type1(container.fd);
  return {
    write: (iova, bytes) => type1.deviceWrite(iova, bytes.byteLength),
    pin: (iova, pages) => type1.pin(iova, pages * 4096),
    unpin: (iova, pages) => type1.unpin(iova, pages * 4096),
    writePinned: () => 0,
  };
}

test.each(SEQUENCES)('map, unmap, write, pin, unpin, harvest: seeds %i to %i', async (first, last) => {
  for (const seed of seedsOf(first, last)) await runDirtySequence({ container, memory, device: modelDevice() }, seed);
  expect(container.mappings).toEqual([]);
});

test('a write that nobody saw fails the sequence', async () => {
  const blind = { ...modelDevice(), write: () => 0 };
  await expect(
    (async () => {
      for (const seed of seedsOf(0, 9)) await runDirtySequence({ container, memory, device: blind }, seed);
    })(),
  ).rejects.toThrow('written and not reported');
});

test('a page that nobody wrote fails the sequence', async () => {
  const device = modelDevice();
  const sloppy = {
    ...device,
    write: (iova: number, bytes: Uint8Array) =>
      device.write(iova - (iova % 8192), new Uint8Array(bytes.byteLength + (iova % 8192))),
  };
  await expect(
    (async () => {
      for (const seed of seedsOf(0, 9)) await runDirtySequence({ container, memory, device: sloppy }, seed);
    })(),
  ).rejects.toThrow(/neither written nor pinned|write gave/);
});

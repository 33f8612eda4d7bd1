import type { MappedRamBlock } from '@godwit/linux';
import { Errno } from '@godwit/linux/unstable';
import { type DmaMapping, type Ioas, Iommufd, Type1Container } from '@godwit/vfio';
import { Type1 } from '@godwit/vfio/unstable';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { errorOf } from './error-of.js';
import { type ModelledVm, modelledVm, PAGE } from './model.js';

/** Memory that devices reach is not discarded. */

const range = { firstPage: 8, pageCount: 16 };
const IOVA = 0x100_0000;
let vm: ModelledVm;
let block: MappedRamBlock;
beforeEach(async () => {
  vm = await modelledVm([64]);
  block = vm.memory.blocks[0] as MappedRamBlock;
  block.view(0, 64 * PAGE).fill(7);
});
afterEach(() => vm.close());

/** Page 20 of guest memory. */
function mapOne(space: Type1Container | Ioas): Promise<DmaMapping> {
  const guestPhysicalAddress = 20 * PAGE;
  const hostAddress = block.hostAddress + BigInt(guestPhysicalAddress);
  return space.map({ iova: IOVA, byteLength: PAGE, guestPhysicalAddress, hostAddress });
}

test('that a container has mapped, until it is unmapped', async () => {
  expect(block.discard(range)).toBe(false);
  expect(block.view(20 * PAGE, 1)[0]).toBe(7);
  const [all] = vm.container.mappings as [DmaMapping];
  const twice = await mapOne(vm.container);
  await vm.container.unmap(all);
  expect(block.discard(range)).toBe(false);
  await vm.container.unmap(twice);
  expect(block.discard(range)).toBe(true);
  expect(block.view(20 * PAGE, 1)[0]).toBe(0);
});

test('a map that fails forbids nothing; an unmap that fails gives nothing free', async () => {
  const [all] = vm.container.mappings as [DmaMapping];
  vm.model.failures.set(Type1.VFIO_IOMMU_UNMAP_DMA, Errno.EFAULT);
  await errorOf(() => vm.container.unmap(all));
  vm.model.failures.clear();
  expect(block.discard(range)).toBe(false);
  await vm.container.unmap(all);
  vm.model.failures.set(Type1.VFIO_IOMMU_MAP_DMA, Errno.ENOMEM);
  await errorOf(() => mapOne(vm.container));
  vm.model.failures.clear();
  expect(block.discard(range)).toBe(true);
});

describe('closing', () => {
  test.each(['close', 'closeAsync'] as const)('a container: %s', async (close) => {
    await vm.container[close]();
    expect(block.discard(range)).toBe(true);
  });

  test('one that was adopted leaves its descriptor and what is mapped alone', async () => {
    const [all] = vm.container.mappings as [DmaMapping];
    await vm.container.unmap(all);
    const adopted = Type1Container.adopt(vm.container.fd, [], vm.model);
    await mapOne(adopted);
    adopted.close();
    expect(block.discard(range)).toBe(false);
  });

  test.each(['close', 'closeAsync'] as const)('an iommufd: %s', async (close) => {
    await vm.container.unmap(vm.container.mappings[0] as DmaMapping);
    const iommufd = Iommufd.open(vm.model);
    await mapOne(iommufd.allocateIoas());
    expect(block.discard(range)).toBe(false);
    await iommufd[close]();
    expect(block.discard(range)).toBe(true);
  });
});

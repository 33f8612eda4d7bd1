import { Errno } from '@godwit/linux/unstable';
import { type DmaMapping, Type1Container, VfioDevice, VfioGroup } from '@godwit/vfio';
import { VfioModel } from '@godwit/vfio/testing';
import { Type1, Vfio } from '@godwit/vfio/unstable';
import { afterEach, describe, expect, test } from '@jest/globals';
import { errorOf } from './error-of.js';
import { type ModelledVm, modelledVm, PAGE } from './model.js';

let vm: ModelledVm | undefined;
afterEach(() => {
  vm?.close();
  vm = undefined;
});

describe('what stands in the way is named, and nothing stays open', () => {
  const model = new VfioModel([{ number: 1 }, { number: 2, viable: false, devices: { d: {} } }]);
  afterEach(() => expect(model.openDescriptors).toBe(0));

  test('a group that is not there', async () => {
    expect((await errorOf(() => VfioGroup.open(3, model))).code).toBe('GODWIT_UNSUPPORTED');
  });

  test('a group that somebody else has', async () => {
    const group = VfioGroup.open(1, model);
    const error = await errorOf(() => VfioGroup.open(1, model));
    expect([error.code, error.message]).toEqual(['GODWIT_DEVICE_BUSY', 'another process has IOMMU group 1 open']);
    group.close();
    group.close();
  });

  test('a group that is not viable', async () => {
    const error = await errorOf(() => VfioGroup.open(2, model));
    expect(error.code).toBe('GODWIT_DEVICE_BUSY');
    expect(error.message).toMatch(/iommu_groups\/2\/devices/);
  });

  test('a group in two containers', async () => {
    const group = VfioGroup.open(1, model);
    const container = Type1Container.open([group], model);
    expect(group.status()).toEqual({ viable: true, containerSet: true });
    expect((await errorOf(() => Type1Container.open([group], model))).code).toBe('GODWIT_INVALID_STATE');
    container.close();
    group.close();
  });

  test('a container without a group', async () => {
    expect((await errorOf(() => Type1Container.open([], model))).code).toBe('GODWIT_INVALID_ARGUMENT');
  });

  test('a kernel without type1', async () => {
    model.failures.set(Vfio.VFIO_CHECK_EXTENSION, Errno.EINVAL);
    const group = VfioGroup.open(1, model);
    expect((await errorOf(() => Type1Container.open([group], model))).message).toMatch(
      /load the module vfio_iommu_type1/,
    );
    model.failures.clear();
    group.close();
  });

  test('a device that is not in the group, and one that is asked for too early', async () => {
    const group = VfioGroup.open(1, model);
    expect((await errorOf(() => VfioDevice.open(group, 'd', model))).code).toBe('GODWIT_INVALID_STATE');
    const container = Type1Container.open([group], model);
    expect((await errorOf(() => VfioDevice.open(group, 'd', model))).code).toBe('GODWIT_UNSUPPORTED');
    container.close();
    group.close();
  });
});

describe('mappings', () => {
  const at = (iova: number, pages = 1) => ({
    iova,
    guestPhysicalAddress: iova,
    byteLength: pages * PAGE,
    hostAddress: 0x10_0000n,
  });

  test('are listed, found by address and size, and go whole', async () => {
    vm = await modelledVm([4, 2]);
    const { container } = vm;
    expect(container.mappings).toEqual([
      { iova: 0, guestPhysicalAddress: 0, byteLength: 4 * PAGE },
      { iova: 20 * PAGE, guestPhysicalAddress: 20 * PAGE, byteLength: 2 * PAGE },
    ]);
    const error = await errorOf(() => container.unmap({ iova: 0, byteLength: PAGE }));
    expect(error.message).toMatch(/mappings go whole/);
    await container.unmap({ iova: 0, byteLength: 4 * PAGE });
    expect(container.mappings).toHaveLength(1);
  });

  test.each([
    ['half a page', { ...at(1), iova: 2048 }, 'GODWIT_INVALID_ARGUMENT'],
    ['nothing', at(0x100_0000, 0), 'GODWIT_INVALID_ARGUMENT'],
    ['beyond 2^53', at(2 ** 53), 'GODWIT_INVALID_ARGUMENT'],
    ['a page that is mapped', at(0), 'GODWIT_INVALID_ARGUMENT'],
    ['one too many', at(0x100_0000), 'GODWIT_LIMIT_EXCEEDED'],
  ] as const)('%s is refused', async (_, request, code) => {
    vm = await modelledVm([1], { mappingsAvailable: 1 });
    const { container } = vm;
    expect((await errorOf(() => container.map(request))).code).toBe(code);
    expect(container.mappings).toHaveLength(1);
  });

  test('where devices cannot reach is refused in words', async () => {
    vm = await modelledVm([1], { iommu: true });
    const { container } = vm;
    const error = await errorOf(() => container.map(at(0xfee0_0000)));
    expect(error.message).toBe(
      'the mapping of 4096 bytes at IOVA 0xfee00000 cannot be reached by the devices, which address 0x0..0xfedfffff, 0xfef00000..0xffffffffffff',
    );
  });

  test('all or nothing: when one piece cannot be mapped, those before it are unmapped again', async () => {
    vm = await modelledVm([64], { mappingsAvailable: 3 });
    const { container, memory } = vm;
    await container.unmap(container.mappings[0] as DmaMapping);
    const error = await errorOf(() => container.mapMemory(memory, { largestPiece: 16 * PAGE }));
    expect(error.code).toBe('GODWIT_LIMIT_EXCEEDED');
    expect(container.mappings).toEqual([]);
  });

  test('may be elsewhere than guest memory is', async () => {
    vm = await modelledVm([2]);
    const { container, memory } = vm;
    await container.unmap(container.mappings[0] as DmaMapping);
    await container.mapMemory(memory, { iovaOf: (address) => address + 2 ** 40, largestPiece: PAGE });
    expect(container.mappings.map(({ iova, guestPhysicalAddress }) => [iova, guestPhysicalAddress])).toEqual([
      [2 ** 40, 0],
      [2 ** 40 + PAGE, PAGE],
    ]);
  });

  test('an unmap that fails leaves the mapping on the list', async () => {
    vm = await modelledVm([1]);
    const { container, model } = vm;
    model.failures.set(Type1.VFIO_IOMMU_UNMAP_DMA, Errno.EINVAL);
    await errorOf(() => container.unmap(container.mappings[0] as DmaMapping));
    model.failures.clear();
    expect(container.mappings).toHaveLength(1);
  });
});

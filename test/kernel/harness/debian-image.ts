import { join } from 'node:path';
import { builtModules } from './built-modules.js';
import { cached } from './cache.js';
import { announced } from './command.js';
import type { DebianKernel, DebianTree } from './debian-packages.js';
import { initScript } from './init-script.js';
import { writeInitramfs } from './initramfs.js';
import { debianModules } from './kernel-modules.js';
import type { BootImage } from './test-machine.js';

/**
 * Features that Debian builds as modules; the modules that these depend on are found by name. i2c-i801 drives the SMBus
 * controller, which shares an IOMMU group with the SATA controller, so that this group has a device that the host uses.
 */
const MODULES = ['9pnet_virtio', '9p', 'kvm-amd', 'vfio_iommu_type1', 'vfio-pci', 'mdev', 'i2c-i801'];

export interface DebianImageOptions {
  readonly kernel: DebianKernel;
  /** The machine's, for the cache. */
  readonly name: string;
  /** The folder of the test device's source. */
  readonly sources: string;
  /** Added to the kernel's command line. Default: nothing. */
  readonly parameters?: string;
}

/**
 * A kernel of Debian's with the test device and mtty, on a machine with an emulated IOMMU and QEMU's `edu` devices behind
 * it, which can do DMA.
 */
export async function debianImage(
  tree: DebianTree,
  { kernel, name, sources, parameters = '' }: DebianImageOptions,
): Promise<BootImage> {
  const { headers, makeArguments, vmlinuz } = kernel;
  const own = await builtModules(tree, { folder: headers, makeArguments, key: kernel.key }, sources, { mtty: true });
  const key = [
    ...kernel.key,
    ...MODULES,
    initScript([]),
    ...own.map(({ content }) => Buffer.from(content).toString('latin1')),
  ];
  const folder = await cached(name, key, async (target) => {
    await announced('making the initramfs', async () => {
      const { modules, release } = kernel;
      const debians = await debianModules({ modules, release, program: tree.program }, MODULES);
      writeInitramfs(join(target, 'initramfs'), tree, [...debians, ...own]);
    });
  });
  return {
    kernel: vmlinuz,
    initramfs: join(folder, 'initramfs'),
    devices: ['-device', 'intel-iommu', '-device', 'edu', '-device', 'edu'],
    parameters: `intel_iommu=on ${parameters}`,
  };
}

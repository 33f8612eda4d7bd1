import { join } from 'node:path';
import { builtModules } from './built-modules.js';
import { cached } from './cache.js';
import { announced } from './command.js';
import type { DebianTree } from './debian-packages.js';
import { initScript } from './init-script.js';
import { writeInitramfs } from './initramfs.js';
import { debianModules } from './kernel-modules.js';
import type { BootImage } from './test-machine.js';

/**
 * Features that Debian builds as modules; the modules that these depend on are found by name. i2c-i801 drives the SMBus
 * controller, which shares an IOMMU group with the SATA controller, so that this group has a device that the host uses.
 */
const MODULES = ['9pnet_virtio', '9p', 'kvm-amd', 'vfio_iommu_type1', 'vfio-pci', 'mdev', 'i2c-i801'];

/**
 * Debian's own kernel with the test device and mtty, on a machine with an emulated IOMMU and QEMU's `edu` devices behind
 * it, which can do DMA.
 *
 * @param sources the folder of the test device's source
 */
export async function stockImage(tree: DebianTree, sources: string): Promise<BootImage> {
  const own = await builtModules(tree, { folder: tree.headers, key: tree.key }, sources, { mtty: true });
  const key = [
    ...tree.key,
    ...MODULES,
    initScript([]),
    ...own.map(({ content }) => Buffer.from(content).toString('latin1')),
  ];
  const folder = await cached('stock', key, async (target) => {
    await announced('making the initramfs', async () => {
      const modules = [...(await debianModules(tree, MODULES)), ...own];
      writeInitramfs(join(target, 'initramfs'), tree, modules);
    });
  });
  return {
    kernel: tree.vmlinuz,
    initramfs: join(folder, 'initramfs'),
    devices: ['-device', 'intel-iommu', '-device', 'edu', '-device', 'edu'],
    parameters: 'intel_iommu=on',
  };
}

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { cached } from './cache.js';
import { announced } from './command.js';
import type { DebianTree } from './debian-packages.js';
import { initScript } from './init-script.js';
import { writeInitramfs } from './initramfs.js';
import { debianModules } from './kernel-modules.js';
import type { BootImage } from './test-machine.js';

/** Debian has these as modules; what they need in turn is found. */
const MODULES = ['9pnet_virtio', '9p', 'kvm-amd', 'vfio_iommu_type1', 'vfio-pci', 'mdev'];

/** Debian's own kernel with an emulated IOMMU and QEMU's `edu` device, which can DMA, behind it. */
export async function stockImage(tree: DebianTree): Promise<BootImage> {
  const script = (names: readonly string[]) => initScript(names.map((name) => `/modules/${name}.ko`));
  const folder = await cached('stock', [...tree.key, ...MODULES, script([])], async (target) => {
    await announced('making the initramfs', async () => {
      const modules = await debianModules(tree, MODULES);
      writeInitramfs(join(target, 'initramfs'), tree, modules, script(modules.map(({ name }) => name)));
    });
    writeFileSync(join(target, 'release'), `${tree.release}\n`);
  });
  return {
    kernel: tree.vmlinuz,
    initramfs: join(folder, 'initramfs'),
    devices: ['-device', 'intel-iommu', '-device', 'edu'],
    parameters: 'intel_iommu=on',
  };
}

import { join } from 'node:path';
import { cached } from './cache.js';
import type { DebianTree } from './debian-packages.js';
import { initScript } from './init-script.js';
import { writeInitramfs } from './initramfs.js';
import { debianModules } from './kernel-modules.js';
import type { BootImage } from './test-machine.js';

/** KVM, and the host's files; what they need in turn is found. */
const MODULES = ['9pnet_virtio', '9p', 'kvm-amd'];

/**
 * Debian's own kernel on one processor, to run guests of its own: nothing else is in this machine. Page tables have four levels: each
 * level of this kernel's and of its guest's is walked for the other's, by an emulated processor.
 */
export async function nestedImage(tree: DebianTree): Promise<BootImage> {
  const folder = await cached('nested', [...tree.key, ...MODULES, initScript([])], async (target) => {
    writeInitramfs(join(target, 'initramfs'), tree, await debianModules(tree, MODULES));
  });
  return {
    kernel: tree.vmlinuz,
    initramfs: join(folder, 'initramfs'),
    processor: { model: 'max,+svm,-la57', count: 1 },
    devices: [],
    parameters: '',
  };
}

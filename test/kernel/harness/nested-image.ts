import { join } from 'node:path';
import { NEWEST, unpackedQemu } from '@godwit/bench/qemu';
import { PATIENT } from '../guest/linux-files.js';
import { cached } from './cache.js';
import type { DebianTree } from './debian-packages.js';
import { initScript } from './init-script.js';
import { writeInitramfs } from './initramfs.js';
import { debianModules } from './kernel-modules.js';
import type { BootImage } from './test-machine.js';

/** KVM, and the host's files; what they need in turn is found. */
const MODULES = ['9pnet_virtio', '9p', 'kvm-amd'];

/**
 * Debian's own kernel on one processor, to run guests of its own, in the newest QEMU: nothing else is in this machine. Nested paging
 * stays on: without it (`kvm_amd npt=0`) every kernel resets at its first instructions, in QEMU's guests too. Page tables have four
 * levels: each level of a guest's is looked up through all of this kernel's, by an emulated processor.
 */
export async function nestedImage(tree: DebianTree): Promise<BootImage> {
  const folder = await cached('nested', [...tree.key, ...MODULES, initScript([])], async (target) => {
    writeInitramfs(join(target, 'initramfs'), tree, await debianModules(tree, MODULES));
  });
  return {
    kernel: tree.vmlinuz,
    initramfs: join(folder, 'initramfs'),
    qemu: await unpackedQemu(NEWEST, (text) => process.stdout.write(`kernel: ${text}\n`)),
    processor: { model: 'max,+svm,-la57', count: 1 },
    devices: [],
    parameters: PATIENT,
  };
}

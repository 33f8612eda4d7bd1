import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { NEWEST, unpackedQemu } from '@godwit/bench/qemu';
import { PATIENT, SMALL_KERNEL_VARIABLE, VMM_VARIABLE, WORK_VARIABLE } from '../guest/linux-files.js';
import { builtKernel } from './built-kernel.js';
import { builtProgram } from './built-program.js';
import { bundledVmm } from './bundled-vmm.js';
import { cached } from './cache.js';
import type { DebianTree } from './debian-packages.js';
import { initScript } from './init-script.js';
import { writeInitramfs } from './initramfs.js';
import type { BootImage } from './test-machine.js';

/**
 * A machine to run guests of its own, in the newest QEMU, with a small kernel that its guests have too: it has everything that both need
 * built in, and nothing else, since each instruction of a guest is emulated.
 *
 * Nested paging stays on: without it (`kvm_amd.npt=0`) every kernel resets at its first instructions, in QEMU's guests too. Page tables have
 * four levels: each level of a guest's is looked up through all of this kernel's, by an emulated processor.
 *
 * @param root the repository
 */
export async function nestedImage(tree: DebianTree, root: string): Promise<BootImage> {
  const folder = join(root, 'test/kernel');
  const kernel = await builtKernel(tree, {
    ...{ name: 'nested-kernel', description: 'a kernel for guests', modules: false },
    fragment: readFileSync(join(folder, 'harness/nested-kernel.config'), 'utf8'),
  });
  const work = await builtProgram(join(folder, 'program/guest_work.c'));
  const image = await cached('nested', [...tree.key, initScript([])], async (target) => {
    writeInitramfs(join(target, 'initramfs'), tree, []);
  });
  return {
    kernel: kernel.bzImage,
    initramfs: join(image, 'initramfs'),
    qemu: await unpackedQemu(NEWEST, (text) => process.stdout.write(`kernel: ${text}\n`)),
    processor: { model: 'max,+svm,-la57', count: 2 },
    accelerator: 'tcg,thread=multi',
    devices: [],
    // KVM complains of each register that it does not have as an error, when a guest's state is loaded.
    parameters: `${PATIENT} loglevel=3`,
    variables: {
      // Not compressed: a guest takes eight seconds to unpack it.
      [SMALL_KERNEL_VARIABLE]: kernel.vmlinux,
      [WORK_VARIABLE]: work,
      [VMM_VARIABLE]: await bundledVmm(root),
    },
  };
}

import { join } from 'node:path';
import { PATIENT } from '../guest/linux-files.js';
import { debianImage } from './debian-image.js';
import type { DebianKernel, DebianTree } from './debian-packages.js';
import { iommufdImage } from './iommufd-image.js';
import { nestedImage } from './nested-image.js';
import { newestKernel } from './newest-kernel.js';
import type { BootImage } from './test-machine.js';

/** The repository; this file runs compiled, in test/dist/kernel/harness. */
export const ROOT = join(import.meta.dirname, '..', '..', '..', '..');
const MODULE_SOURCES = join(ROOT, 'test/kernel/module');
const IOMMUFD_CONFIGURATION = join(ROOT, 'test/kernel/harness/iommufd-kernel.config');

/** What is booted, and the kernel of Debian's that its suites can boot again inside. */
export interface Machine {
  readonly image: BootImage;
  readonly kernel: DebianKernel;
}

/** How each machine is made: what is not cached yet is downloaded and built. */
export const MACHINES = {
  /** Debian's kernel, with an IOMMU, PCI devices behind it, and KVM. */
  stock: async (tree) => ({
    kernel: tree,
    image: await debianImage(tree, { kernel: tree, name: 'stock', sources: MODULE_SOURCES, parameters: PATIENT }),
  }),
  /** The newest kernel that Debian has, on the same machine. */
  newest: async (tree) => {
    const kernel = await newestKernel();
    const options = { kernel, name: 'newest', sources: MODULE_SOURCES, parameters: PATIENT };
    return { kernel, image: await debianImage(tree, options) };
  },
  /** A small kernel with KVM, for guests of its own, which have the same kernel. */
  nested: async (tree) => ({ kernel: tree, image: await nestedImage(tree, ROOT) }),
  /** The same machine, for guests with Debian's kernel: these take long. */
  distribution: async (tree) => ({ kernel: tree, image: await nestedImage(tree, ROOT) }),
  /** A kernel of our configuration, for what Debian's does not have. */
  iommufd: async (tree) => ({ kernel: tree, image: await iommufdImage(tree, MODULE_SOURCES, IOMMUFD_CONFIGURATION) }),
} as const satisfies Readonly<Record<string, (tree: DebianTree) => Promise<Machine>>>;

export type MachineName = keyof typeof MACHINES;

export const MACHINE_NAMES = Object.keys(MACHINES) as readonly MachineName[];

export function isMachine(name: string): name is MachineName {
  return Object.hasOwn(MACHINES, name);
}

/** The folders of test/kernel with the suites of a machine: that of its name, and for the newest kernel those of `stock` too. */
export function suiteFolders(machine: MachineName): readonly string[] {
  return machine === 'newest' ? ['stock', 'newest'] : [machine];
}

import { copyFileSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { cached } from './cache.js';
import { announced, run } from './command.js';
import type { DebianTree } from './debian-packages.js';
import type { KernelModule } from './kernel-modules.js';

/**
 * The kernel's own sample of a device that can be migrated, from Debian's source of Linux 6.12; it is built for newer kernels too, whose
 * source would be a download of its own.
 */
const MTTY = 'samples/vfio-mdev/mtty.c';

/** Where mtty's operations begin: newer kernels want one more, see test/kernel/module/mtty_regions.h. */
const MTTY_OPERATIONS = /^static const struct vfio_device_ops mtty_dev_ops = \{$/m;

/** What the modules are built against: a kernel's headers, or the tree in which the kernel was built. */
export interface ModuleBuildTree {
  readonly folder: string;
  /** Added to the command line of `make`. Default: nothing. */
  readonly makeArguments?: readonly string[];
  /** Distinguishes kernels that cannot share modules. */
  readonly key: readonly string[];
}

/**
 * Builds the test device of test/kernel/module, and mtty if the kernel does not have it built in.
 *
 * @param sources the folder of the test device's source
 */
export async function builtModules(
  tree: DebianTree,
  kernel: ModuleBuildTree,
  sources: string,
  options: { readonly mtty: boolean },
): Promise<KernelModule[]> {
  const names = options.mtty ? ['godwit_dma', 'mtty'] : ['godwit_dma'];
  const files = readdirSync(sources).sort();
  const contents = files.map((name) => readFileSync(join(sources, name), 'utf8'));
  const folder = await cached(
    'modules',
    [...kernel.key, ...names, ...contents, MTTY_OPERATIONS.source],
    async (target) => {
      for (const name of files) copyFileSync(join(sources, name), join(target, name));
      if (options.mtty) await announced('unpacking mtty from Debian’s kernel source', () => unpackMtty(tree, target));
      writeFileSync(join(target, 'Makefile'), `obj-m := ${names.map((name) => `${name}.o`).join(' ')}\n`);
      await announced(`building ${names.join(' and ')}`, () =>
        run('make', ['-s', '-C', kernel.folder, `M=${target}`, ...(kernel.makeArguments ?? []), 'modules'], {
          env: tree.environment,
        }),
      );
    },
  );
  return names.map((name) => ({ name, content: readFileSync(join(folder, `${name}.ko`)) }));
}

/**
 * The kernel's source has another licence than this project, so that mtty's source is taken from Debian's package when
 * it is needed.
 */
async function unpackMtty(tree: DebianTree, target: string): Promise<void> {
  const root = basename(tree.sourceArchive).replace('.tar.xz', '');
  await run('tar', ['-xJf', tree.sourceArchive, '-C', target, '--occurrence=1', `${root}/${MTTY}`]);
  const source = readFileSync(join(target, root, MTTY), 'utf8');
  const adapted = source.replace(MTTY_OPERATIONS, '#include "mtty_regions.h"\n\n$&\n\tMTTY_REGION_INFO');
  if (adapted === source) throw new Error(`${MTTY} of ${root} has no line ${MTTY_OPERATIONS}`);
  writeFileSync(join(target, basename(MTTY)), adapted);
  rmSync(join(target, root), { recursive: true });
}

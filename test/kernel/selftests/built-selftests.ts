import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import { DebianSuites } from '@godwit/bench/debian';
import { cached } from '../harness/cache.js';
import { announced, run } from '../harness/command.js';
import type { DebianKernel, DebianTree } from '../harness/debian-packages.js';
import { NEWEST_SUITE } from '../harness/newest-kernel.js';

/** What `make headers` and the selftests need of a kernel's source; all else of its 1.6 GB stays packed. */
const PARTS = [
  'tools',
  'include',
  'scripts',
  'usr',
  'arch/x86',
  'drivers/iommu/iommufd',
  'mm/gup_test.h',
  'Makefile',
  'Kbuild',
];

/**
 * Debian's 6.12.117 has the selftests of iommufd from a newer kernel than its headers: these names are missing there. The field and its
 * successor are the same four bytes; tests that need more than names fail, and say so.
 */
const NEWER_NAMES = [
  '-Din_data_type=out_data_type',
  '-DIOMMU_HW_INFO_TYPE_DEFAULT=0',
  '-DIOMMU_HW_INFO_FLAG_INPUT_TYPE=1',
  '-DMOCK_FLAGS_DEVICE_PASID=0',
  '-DMOCK_PASID_WIDTH=20',
].join(' ');

/** The selftests that are built: a folder of tools/testing/selftests, and programs in it. */
const PROGRAMS = [
  { folder: 'iommu', programs: ['iommufd'], flags: NEWER_NAMES },
  { folder: 'mm', programs: ['uffd-unit-tests', 'pagemap_ioctl'], flags: '' },
  { folder: 'kvm', programs: ['dirty_log_test'], flags: '' },
] as const;

/** Selftests of the kernel, built from Debian's package of its source: `program('mm/pagemap_ioctl')` is a path. */
export interface BuiltSelftests {
  /** The path of a program, such as `mm/pagemap_ioctl`. */
  program(name: string): string;
}

/**
 * Builds the selftests of Debian's 6.12, out of the source that is there already.
 */
export function stockSelftests(tree: DebianTree): Promise<BuiltSelftests> {
  return builtSelftests(tree, tree, ['iommu', 'mm', 'kvm'], async () => tree.sourceArchive);
}

/** Builds the selftests of the newest kernel; downloads its source, 167 MB, and keeps what is built of it. */
export function newestSelftests(tree: DebianTree, kernel: DebianKernel): Promise<BuiltSelftests> {
  return builtSelftests(tree, kernel, ['mm'], async (scratch) => {
    const suites = await DebianSuites.open([NEWEST_SUITE], scratch);
    const series = kernel.release.split('.').slice(0, 2).join('.');
    const unpacked = join(scratch, 'source');
    await announced(`downloading Debian’s source of Linux ${series}`, () =>
      suites.unpack([`linux-source-${series}`], unpacked),
    );
    const folder = join(unpacked, 'usr/src');
    const archive = readdirSync(folder).find((name) => name.endsWith('.tar.xz'));
    if (archive === undefined) throw new Error(`Debian's package linux-source-${series} has no source in ${folder}`);
    return join(folder, archive);
  });
}

async function builtSelftests(
  tree: DebianTree,
  kernel: DebianKernel,
  folders: readonly string[],
  source: (scratch: string) => Promise<string>,
): Promise<BuiltSelftests> {
  const built = PROGRAMS.filter(({ folder }) => folders.includes(folder));
  const key = [...kernel.key, JSON.stringify(built)];
  const folder = await cached('selftests', key, async (target) => {
    const scratch = mkdtempSync(join(target, 'building-'));
    const archive = await source(scratch);
    const unpacked = join(scratch, 'linux');
    mkdirSync(unpacked);
    const root = basename(archive).replace('.tar.xz', '');
    await announced(`unpacking selftests from ${basename(archive)}`, () =>
      run('tar', ['-xJf', archive, '-C', unpacked, '--strip-components=1', ...PARTS.map((part) => `${root}/${part}`)]),
    );
    await announced(`building the selftests of Linux ${kernel.release}`, async () => {
      await make(tree, ['-C', unpacked, 'ARCH=x86', 'headers']);
      for (const { folder: name, programs, flags } of built) {
        const output = join(target, name);
        mkdirSync(output);
        const paths = programs.map((program) => join(output, program));
        const folderOf = join(unpacked, 'tools/testing/selftests', name);
        await make(tree, ['-C', folderOf, 'ARCH=x86', `OUTPUT=${output}`, `USERCFLAGS=${flags}`, ...paths]);
      }
    });
    rmSync(scratch, { recursive: true });
  });
  return { program: (name) => join(folder, name) };
}

async function make(tree: DebianTree, args: readonly string[]): Promise<void> {
  await run('make', ['-s', ...args], { env: tree.environment });
}

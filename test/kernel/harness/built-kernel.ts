import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { cached } from './cache.js';
import { announced, run } from './command.js';
import type { DebianTree } from './debian-packages.js';

/**
 * Files that are not unpacked: hundreds of megabytes of code that these kernels do not use. All Kconfig files are needed.
 */
const NOT_UNPACKED = [
  '*/Documentation/*/*',
  '*/drivers/gpu/*.[ch]',
  '*/drivers/media/*.[ch]',
  '*/drivers/net/ethernet/*.[ch]',
  '*/drivers/net/wireless/*.[ch]',
  '*/sound/*.[ch]',
  '*/arch/[!x]*/*.[chS]',
  '*.dts',
  '*.dtsi',
];

/** A kernel of a configuration of ours, built of Debian's source. */
export interface BuiltKernel {
  readonly folder: string;
  readonly bzImage: string;
  /** The same, not compressed; only where no modules are built. */
  readonly vmlinux: string;
  /** The tree in which it was built, for building modules against it; only where modules are built. */
  readonly build: string;
}

/** What is built, and for what. */
export interface KernelChoice {
  /** The cache's name of it. */
  readonly name: string;
  /** For the person who waits for it: `a kernel with iommufd`. */
  readonly description: string;
  /** The options over `make tinyconfig`. */
  readonly fragment: string;
  /** Whether modules are built with it, and against it. */
  readonly modules: boolean;
}

/**
 * Builds a small kernel of Debian's source, for what Debian's own kernel does not have, or has too much of. Building it takes about four
 * minutes on two cores; it is cached by Debian's version and by the configuration.
 */
export async function builtKernel(tree: DebianTree, choice: KernelChoice): Promise<BuiltKernel> {
  const folder = await cached(choice.name, [...tree.key, choice.fragment], (target) => build(tree, choice, target));
  return {
    ...{ folder, bzImage: join(folder, 'bzImage'), vmlinux: join(folder, 'vmlinux') },
    build: join(folder, 'build'),
  };
}

async function build(
  tree: DebianTree,
  { description, fragment, modules }: KernelChoice,
  target: string,
): Promise<void> {
  const source = join(target, 'source');
  const output = join(target, 'build');
  for (const folder of [source, output]) mkdirSync(folder);
  await announced('unpacking Debian’s kernel source', () =>
    run('tar', [
      ...['-xJf', tree.sourceArchive, '-C', source, '--strip-components=1'],
      ...NOT_UNPACKED.map((pattern) => `--exclude=${pattern}`),
    ]),
  );
  const environment = {
    ...tree.environment,
    // objtool, which the kernel builds for itself, needs a library that is installed, and headers that may not be.
    C_INCLUDE_PATH: join(tree.folder, 'usr/include'),
  };
  const make = (...args: string[]) =>
    run('nice', ['-n', '10', 'make', '-s', '-C', source, `O=${output}`, 'LIBELF_LIBS=-l:libelf.so.1', ...args], {
      env: environment,
    });
  await make('tinyconfig');
  const config = join(output, '.config');
  writeFileSync(config, `${readFileSync(config, 'utf8')}\n${fragment}`);
  await make('olddefconfig');
  checkConfiguration(fragment, readFileSync(config, 'utf8'));
  await announced(`building ${description} on ${cpus().length} processors (about four minutes on two)`, () =>
    make(`-j${cpus().length}`, 'bzImage', ...(modules ? ['modules'] : [])),
  );
  await run('cp', [join(output, 'arch/x86/boot/bzImage'), join(target, 'bzImage')]);
  if (modules) {
    await removeWhatModulesDoNotNeed(source, output);
    return;
  }
  await run('strip', ['-o', join(target, 'vmlinux'), join(output, 'vmlinux')]);
  for (const folder of [source, output]) rmSync(folder, { recursive: true });
}

/** Checks that each option of the fragment is set: Kconfig silently drops options that lack a dependency. */
function checkConfiguration(fragment: string, configuration: string): void {
  const lines = new Set(configuration.split('\n'));
  const lost = fragment.split('\n').filter((line) => line.endsWith('=y') && !lines.has(line));
  if (lost.length > 0) throw new Error(`the kernel's configuration did not take ${lost.join(', ')}`);
}

/**
 * Deletes sources and objects, which are most of a gigabyte: building a module needs only headers, scripts and
 * Module.symvers.
 */
async function removeWhatModulesDoNotNeed(source: string, output: string): Promise<void> {
  await run('find', [source, '-name', '*.[cS]', '-not', '-path', `${source}/scripts/*`, '-delete']);
  const objects = ['(', '-name', '*.o', '-o', '-name', '*.a', '-o', '-name', '.*.cmd', ')'];
  const kept = ['-not', '-path', `${output}/scripts/*`, '-not', '-path', `${output}/tools/*`];
  await run('find', [output, ...objects, ...kept, '-delete']);
  for (const name of ['vmlinux', 'vmlinux.unstripped']) {
    if (existsSync(join(output, name))) rmSync(join(output, name));
  }
}

import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { builtModules } from './built-modules.js';
import { cached } from './cache.js';
import { announced, run } from './command.js';
import type { DebianTree } from './debian-packages.js';
import { initScript } from './init-script.js';
import { writeInitramfs } from './initramfs.js';
import type { BootImage } from './test-machine.js';

/**
 * Files that are not unpacked: hundreds of megabytes of code that this kernel does not use. All Kconfig files are needed.
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

/**
 * A small kernel of Debian's source, for features that Debian's own kernel does not have: iommufd and its mock devices.
 * Building it takes about four minutes on two cores; it is cached by Debian's version and by the configuration.
 *
 * Its machine has no IOMMU, since the mock devices do not work beside a real one.
 *
 * @param sources the folder of the test device's source
 * @param configuration the path of the fragment over `make tinyconfig`
 */
export async function iommufdImage(tree: DebianTree, sources: string, configuration: string): Promise<BootImage> {
  const fragment = readFileSync(configuration, 'utf8');
  const key = [...tree.key, fragment];
  const kernel = await cached('iommufd-kernel', key, (target) => buildKernel(tree, fragment, target));
  const build = join(kernel, 'build');
  const modules = await builtModules(tree, { folder: build, key: [kernel, ...key] }, sources, { mtty: false });
  const initramfsKey = [
    kernel,
    initScript([]),
    ...modules.map(({ content }) => Buffer.from(content).toString('latin1')),
  ];
  const folder = await cached('iommufd', initramfsKey, async (target) => {
    writeInitramfs(join(target, 'initramfs'), tree, modules);
  });
  return {
    kernel: join(kernel, 'bzImage'),
    initramfs: join(folder, 'initramfs'),
    devices: [],
    parameters: '',
  };
}

async function buildKernel(tree: DebianTree, fragment: string, target: string): Promise<void> {
  const source = join(target, 'source');
  const build = join(target, 'build');
  for (const folder of [source, build]) mkdirSync(folder);
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
    run('nice', ['-n', '10', 'make', '-s', '-C', source, `O=${build}`, 'LIBELF_LIBS=-l:libelf.so.1', ...args], {
      env: environment,
    });
  await make('tinyconfig');
  const config = join(build, '.config');
  writeFileSync(config, `${readFileSync(config, 'utf8')}\n${fragment}`);
  await make('olddefconfig');
  checkConfiguration(fragment, readFileSync(config, 'utf8'));
  await announced(`building a kernel with iommufd on ${cpus().length} processors (about four minutes on two)`, () =>
    make(`-j${cpus().length}`, 'bzImage', 'modules'),
  );
  await run('cp', [join(build, 'arch/x86/boot/bzImage'), join(target, 'bzImage')]);
  await removeWhatModulesDoNotNeed(source, build);
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
async function removeWhatModulesDoNotNeed(source: string, build: string): Promise<void> {
  await run('find', [source, '-name', '*.[cS]', '-not', '-path', `${source}/scripts/*`, '-delete']);
  const objects = ['(', '-name', '*.o', '-o', '-name', '*.a', '-o', '-name', '.*.cmd', ')'];
  const kept = ['-not', '-path', `${build}/scripts/*`, '-not', '-path', `${build}/tools/*`];
  await run('find', [build, ...objects, ...kept, '-delete']);
  for (const name of ['vmlinux', 'vmlinux.unstripped']) {
    if (existsSync(join(build, name))) rmSync(join(build, name));
  }
}

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { builtKernel } from './built-kernel.js';
import { builtModules } from './built-modules.js';
import { cached } from './cache.js';
import type { DebianTree } from './debian-packages.js';
import { initScript } from './init-script.js';
import { writeInitramfs } from './initramfs.js';
import type { BootImage } from './test-machine.js';

/**
 * A small kernel of Debian's source, for features that Debian's own kernel does not have: iommufd and its mock devices.
 *
 * Its machine has no IOMMU, since the mock devices do not work beside a real one.
 *
 * @param sources the folder of the test device's source
 * @param configuration the path of the fragment over `make tinyconfig`
 */
export async function iommufdImage(tree: DebianTree, sources: string, configuration: string): Promise<BootImage> {
  const fragment = readFileSync(configuration, 'utf8');
  const description = 'a kernel with iommufd';
  const {
    folder: kernel,
    bzImage,
    build,
  } = await builtKernel(tree, {
    ...{ name: 'iommufd-kernel', description, fragment, modules: true },
  });
  const modules = await builtModules(tree, { folder: build, key: [kernel, ...tree.key, fragment] }, sources, {
    mtty: false,
  });
  const initramfsKey = [
    kernel,
    initScript([]),
    ...modules.map(({ content }) => Buffer.from(content).toString('latin1')),
  ];
  const folder = await cached('iommufd', initramfsKey, async (target) => {
    writeInitramfs(join(target, 'initramfs'), tree, modules);
  });
  return { kernel: bzImage, initramfs: join(folder, 'initramfs'), devices: [], parameters: '' };
}

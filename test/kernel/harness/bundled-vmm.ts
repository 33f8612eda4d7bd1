import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { build, type Plugin, stop } from 'esbuild';

/** The built VMM, from the repository's root: its command, and the thread of a vCPU. */
const COMMAND = 'examples/node-vmm/dist/command/cli.js';
const VCPU_THREAD = 'examples/node-vmm/dist/vcpu/vcpu-thread.js';
/** Where the bundle is put. */
const FOLDER = '.cache/kernel-test-vmm';
/** Packages with parts that are no JavaScript. */
const NOT_BUNDLED = ['koffi', 'lz4-napi', 'msgpackr-extract'];

/**
 * Bundles the built node-vmm into two files: in a machine that is emulated, Node takes twenty seconds to find and read its four hundred
 * modules, and a quarter of it with a bundle. The code is that of the built packages; each module still knows its own place.
 *
 * @param root the repository
 * @returns the path of the command
 */
export async function bundledVmm(root: string): Promise<string> {
  const thread = pathToFileURL(join(root, FOLDER, 'vcpu-thread.js')).href;
  const ownPlaces: Plugin = {
    name: 'own-places',
    setup({ onLoad }) {
      onLoad({ filter: /\/(packages|examples)\/.*\.js$/ }, ({ path }) => {
        const text = readFileSync(path, 'utf8').replace(
          "new URL('./vcpu-thread.js', import.meta.url)",
          `new URL('${thread}')`,
        );
        return { contents: text.replaceAll('import.meta.url', JSON.stringify(pathToFileURL(path).href)), loader: 'js' };
      });
    },
  };
  await build({
    ...{ bundle: true, platform: 'node', format: 'esm', target: 'node20', legalComments: 'none', logLevel: 'warning' },
    external: NOT_BUNDLED,
    define: { 'process.env.MSGPACKR_NATIVE_ACCELERATION_DISABLED': '"true"' },
    plugins: [ownPlaces],
    // For bundled modules of the older kind.
    banner: {
      js: "import { createRequire as requireFrom } from 'node:module'; const require = requireFrom(import.meta.url);",
    },
    outdir: join(root, FOLDER),
    entryPoints: { cli: join(root, COMMAND), 'vcpu-thread': join(root, VCPU_THREAD) },
  });
  // It leaves a process behind for a next build.
  await stop();
  return join(root, FOLDER, 'cli.js');
}

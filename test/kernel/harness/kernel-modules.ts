import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { capture } from './command.js';
import type { DebianTree } from './debian-packages.js';

/** A kernel module, ready to be inserted. */
export interface KernelModule {
  readonly name: string;
  readonly content: Uint8Array;
}

/** Where modules are found, and how they are unpacked. */
type ModuleTree = Pick<DebianTree, 'modules' | 'program' | 'release'>;

/** Debian's modules of these names and all modules that they depend on, each after the modules that it needs. */
export async function debianModules(tree: ModuleTree, names: readonly string[]): Promise<KernelModule[]> {
  const paths = new Map<string, string>();
  for (const path of readdirSync(tree.modules, { recursive: true, encoding: 'utf8' })) {
    const name = /([^/]+)\.ko(\.xz)?$/.exec(path)?.[1];
    if (name !== undefined) paths.set(underscored(name), join(tree.modules, path));
  }
  const loaded = new Map<string, KernelModule>();
  const add = async (name: string): Promise<void> => {
    if (loaded.has(name)) return;
    const path = paths.get(name);
    if (path === undefined) throw new Error(`Linux ${tree.release} has no module ${name}`);
    const content = await contentOf(tree, path);
    for (const dependency of dependenciesOf(content)) await add(dependency);
    loaded.set(name, { name, content });
  };
  for (const name of names) await add(underscored(name));
  return [...loaded.values()];
}

async function contentOf(tree: ModuleTree, path: string): Promise<Uint8Array> {
  if (!path.endsWith('.xz')) return readFileSync(path);
  return await capture(tree.program('busybox'), ['xz', '-dc', path]);
}

/** The names after `depends=` in the module's .modinfo section. */
function dependenciesOf(content: Uint8Array): string[] {
  const depends = /\0depends=([^\0]*)\0/.exec(Buffer.from(content).toString('latin1'))?.[1] ?? '';
  return depends
    .split(',')
    .filter((name) => name !== '')
    .map(underscored);
}

function underscored(name: string): string {
  return name.replaceAll('-', '_');
}

import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/** The repository; the tests run compiled, in test/dist/packaging. */
export const ROOT = join(import.meta.dirname, '..', '..', '..');

export interface Manifest {
  readonly name: string;
  readonly version: string;
  readonly private?: boolean;
  readonly workspaces?: readonly string[];
  readonly devDependencies?: Readonly<Record<string, string>>;
  readonly peerDependencies?: Readonly<Record<string, string>>;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly optionalDependencies?: Readonly<Record<string, string>>;
  readonly bin?: Readonly<Record<string, string>>;
  readonly exports: Readonly<Record<string, unknown>>;
  readonly repository?: { readonly url: string; readonly directory?: string };
  readonly homepage?: string;
  readonly bugs?: { readonly url: string };
  readonly keywords?: readonly string[];
  readonly funding?: unknown;
}

export function manifestIn(folder: string): Manifest {
  return JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
}

/** The published packages: every workspace that is not private. */
export const PACKAGES: readonly { readonly folder: string; readonly manifest: Manifest }[] = (
  manifestIn(ROOT).workspaces ?? []
)
  .map((folder) => ({ folder: join(ROOT, folder), manifest: manifestIn(join(ROOT, folder)) }))
  .filter(({ manifest }) => manifest.private !== true);

export interface Tarball {
  readonly file: string;
  readonly files: readonly string[];
}

/** What `npm pack --json` prints of a package. */
interface Packed {
  readonly name: string;
  readonly filename: string;
  readonly files: readonly { readonly path: string }[];
}

/** Packs all published packages into `folder`. */
export function packAll(folder: string): Map<string, Tarball> {
  const tarballs = new Map<string, Tarball>();
  // One npm for all of them: it takes longer to start than to pack.
  const folders = PACKAGES.map(({ folder: from }) => from);
  const printed = npm(ROOT, 'pack', '--json', '--ignore-scripts', '--pack-destination', folder, ...folders);
  for (const { name, filename, files } of JSON.parse(printed) as Packed[]) {
    tarballs.set(name, { file: join(folder, filename), files: files.map(({ path }) => path) });
  }
  return tarballs;
}

export function npm(cwd: string, ...args: readonly string[]): string {
  return run('npm', args, cwd);
}

/** Returns a command's standard output; if the command fails, throws an error with all of its output. */
export function run(command: string, args: readonly string[], cwd: string): string {
  try {
    return execFileSync(command, args, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  } catch (error) {
    const { stdout, stderr } = error as { stdout: string; stderr: string };
    throw new Error(`${command} ${args.join(' ')} failed:\n${stdout}\n${stderr}`, { cause: error });
  }
}

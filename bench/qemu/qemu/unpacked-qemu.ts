import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { cacheFolder } from '../cache-folder.js';
import { DebianSuites } from './debian-suites.js';

const run = promisify(execFile);

/** A release of QEMU, and the suites of Debian that have it. */
export interface QemuRelease {
  /** The start of its version: `11.1`. */
  readonly series: string;
  /** Suites of the archive; packages come from the last one that has them. */
  readonly suites: readonly string[];
}

export const NEWEST: QemuRelease = { series: '11.1', suites: ['trixie', 'trixie-backports'] };
export const DEBIAN_12: QemuRelease = { series: '7.2', suites: ['bookworm'] };

/** A QEMU with its dependencies, unpacked from Debian's packages; nothing is installed on the machine. */
export interface UnpackedQemu {
  /** `11.1.3` */
  readonly version: string;
  /** Runs any program with this QEMU's C library and its other libraries: the program's path comes behind it. */
  readonly loader: readonly [string, ...string[]];
  /** The program and its first arguments: QEMU has its own C library, and so its own loader. */
  readonly command: readonly [string, ...string[]];
  readonly environment: Readonly<Record<string, string>>;
}

/** QEMU cannot run here: no KVM, no Debian, no network, or another version in the archive. */
export class NoQemu extends Error {}

const PACKAGES = ['qemu-system-x86', 'seabios'];
const ARCHITECTURE = 'x86_64-linux-gnu';
/** Written last: a folder that has this file is complete. */
const VERSION_FILE = 'version';

/**
 * Returns a release of QEMU from the cache (`~/.cache/godwit/qemu`), or downloads it with `apt-get` and unpacks it there: about 40 MB,
 * half a minute. Needs no root. The archive is that of the machine's own package sources, and apt checks its signatures as usual.
 *
 * @param report called before a step that takes long
 * @throws NoQemu with the reason
 */
export async function unpackedQemu(release: QemuRelease, report: (text: string) => void): Promise<UnpackedQemu> {
  const caches = cacheFolder('qemu');
  const folder = join(caches, release.series);
  if (!existsSync(join(folder, VERSION_FILE))) {
    const scratch = mkdtempSync(join(caches, 'unpacking-'));
    try {
      report(`downloading QEMU ${release.series} from Debian's ${release.suites.at(-1)}`);
      const root = await download(release, scratch);
      rmSync(folder, { recursive: true, force: true });
      renameSync(root, folder);
    } catch (error) {
      // Another process may have completed it first.
      if (!existsSync(join(folder, VERSION_FILE))) throw asNoQemu(release, error);
    } finally {
      rmSync(scratch, { recursive: true, force: true });
    }
  }
  return describe(folder);
}

/** Downloads and unpacks everything below `scratch`; resolves with the complete folder of the unpacked files. */
async function download(release: QemuRelease, scratch: string): Promise<string> {
  const target = release.suites.at(-1) as string;
  const root = join(scratch, 'root');
  mkdirSync(root);
  const suites = await DebianSuites.open(release.suites, scratch);
  await suites.unpackWithDependencies(PACKAGES, target, root);
  const { command, environment } = describe(root, '');
  const [program, ...args] = command;
  const { stdout } = await run(program, [...args, '--version'], { env: { ...process.env, ...environment } });
  const version = /version ([\d.]+)/.exec(stdout)?.[1];
  if (version === undefined || !`${version}.`.startsWith(`${release.series}.`)) {
    throw new NoQemu(`Debian's ${target} has QEMU ${version ?? 'of no version'}, not ${release.series}`);
  }
  writeFileSync(join(root, VERSION_FILE), version);
  return root;
}

function describe(root: string, version = readFileSync(join(root, VERSION_FILE), 'utf8')): UnpackedQemu {
  const libraries = join(root, 'usr/lib', ARCHITECTURE);
  // Since Debian 13 all files are below usr; before, the C library was not.
  const loader = [libraries, join(root, 'lib', ARCHITECTURE)]
    .map((path) => join(path, 'ld-linux-x86-64.so.2'))
    .find((path) => existsSync(path));
  if (loader === undefined) throw new NoQemu(`there is no loader below ${root}`);
  const withLibraries = [loader, '--library-path', `${libraries}:${join(root, 'lib', ARCHITECTURE)}`] as const;
  const data = ['usr/share/qemu', 'usr/share/seabios', 'usr/lib/ipxe/qemu'];
  return {
    version,
    loader: withLibraries,
    command: [
      ...withLibraries,
      join(root, 'usr/bin/qemu-system-x86_64'),
      ...data.flatMap((path) => ['-L', join(root, path)]),
    ],
    environment: { QEMU_MODULE_DIR: join(libraries, 'qemu') },
  };
}

function asNoQemu(release: QemuRelease, error: unknown): NoQemu {
  if (error instanceof NoQemu) return error;
  const printed = error instanceof Error && 'stderr' in error ? String(error.stderr).trim() : '';
  const why =
    printed.split('\n').find((line) => line.startsWith('E:')) ?? (error instanceof Error ? error.message : '');
  return new NoQemu(`QEMU ${release.series} cannot be had from Debian's packages: ${why}`, { cause: error });
}

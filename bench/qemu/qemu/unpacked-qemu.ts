import { execFile } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { cacheFolder } from '../cache-folder.js';

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
  /** The program and its first arguments: QEMU has its own C library, and so its own loader. */
  readonly command: readonly [string, ...string[]];
  readonly environment: Readonly<Record<string, string>>;
}

/** QEMU cannot run here: no KVM, no Debian, no network, or another version in the archive. */
export class NoQemu extends Error {}

const PACKAGES = ['qemu-system-x86', 'seabios'];
const ARCHITECTURE = 'x86_64-linux-gnu';
const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg';
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
  const place = (name: string): string => {
    const path = join(scratch, name);
    mkdirSync(path, { recursive: true });
    return path;
  };
  const signed = existsSync(KEYRING) ? `[signed-by=${KEYRING}] ` : '';
  const archive = await debianArchive();
  writeFileSync(
    join(scratch, 'sources.list'),
    release.suites.map((suite) => `deb ${signed}${archive} ${suite} main\n`).join(''),
  );
  // No package counts as installed, so that all dependencies are downloaded, the C library too.
  writeFileSync(join(place('state'), 'status'), '');
  const settings = {
    'Dir::Etc::sourcelist': join(scratch, 'sources.list'),
    'Dir::Etc::sourceparts': '/dev/null',
    'Dir::State': join(scratch, 'state'),
    'Dir::State::status': join(scratch, 'state', 'status'),
    'Dir::State::lists': place('lists'),
    'Dir::Cache': place('cache'),
    'APT::Install-Recommends': '0',
    // By default apt downloads as a user that cannot read this user's cache.
    'APT::Sandbox::User': 'root',
  };
  const options = Object.entries(settings).flatMap(([name, value]) => ['-o', `${name}=${value}`]);
  await run('apt-get', ['-qq', ...options, '-o', 'APT::Update::Error-Mode=any', 'update']);
  const target = release.suites.at(-1) as string;
  await run('apt-get', ['-qq', ...options, '-t', target, '-y', '--download-only', 'install', ...PACKAGES]);
  const root = place('root');
  const archives = join(scratch, 'cache', 'archives');
  for (const name of readdirSync(archives)) {
    if (name.endsWith('.deb')) await run('dpkg-deb', ['-x', join(archives, name), root]);
  }
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

/**
 * The archive of this machine's own packages: the one that the package lists name, or, before any list was fetched, the one with the
 * usual name. Its signatures are checked in either case.
 */
async function debianArchive(): Promise<string> {
  const repositories = async (...criteria: string[]): Promise<string[]> => {
    const { stdout } = await run('apt-get', ['indextargets', '--format', '$(REPO_URI)', ...criteria]);
    return stdout.split('\n').filter((line) => line !== '');
  };
  const [listed] = await repositories('Created-By: Packages', 'Origin: Debian', 'Label: Debian');
  const archive = listed ?? (await repositories('--no-release-info')).find((uri) => /\/debian\/?$/.test(uri));
  if (archive === undefined) throw new NoQemu("this machine's package sources have no Debian archive");
  return archive;
}

function describe(root: string, version = readFileSync(join(root, VERSION_FILE), 'utf8')): UnpackedQemu {
  const libraries = join(root, 'usr/lib', ARCHITECTURE);
  // Since Debian 13 all files are below usr; before, the C library was not.
  const loader = [libraries, join(root, 'lib', ARCHITECTURE)]
    .map((path) => join(path, 'ld-linux-x86-64.so.2'))
    .find((path) => existsSync(path));
  if (loader === undefined) throw new NoQemu(`there is no loader below ${root}`);
  return {
    version,
    command: [
      loader,
      '--library-path',
      `${libraries}:${join(root, 'lib', ARCHITECTURE)}`,
      join(root, 'usr/bin/qemu-system-x86_64'),
      ...['usr/share/qemu', 'usr/share/seabios', 'usr/lib/ipxe/qemu'].flatMap((path) => ['-L', join(root, path)]),
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

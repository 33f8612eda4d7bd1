import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { cached } from './cache.js';
import { announced, run } from './command.js';
import { programLookup } from './programs.js';

/** The series whose behaviour the suites describe. */
const SERIES = '6.12';
/** Programs that are used from the machine if it has them, and otherwise unpacked beside the kernel. */
const PROGRAMS = ['qemu-system-x86', 'busybox-static', 'flex', 'bison', 'bc', 'libelf-dev'];

/** A kernel of Debian's, unpacked; nothing is installed on the machine. */
export interface DebianKernel {
  /** `6.12.117+deb12-amd64` */
  readonly release: string;
  readonly vmlinuz: string;
  readonly modules: string;
  /** For building modules against this kernel. */
  readonly headers: string;
  /** What `make` is told beside that. */
  readonly makeArguments: readonly string[];
  /** Packages and versions, which are part of the key of everything that is built from it. */
  readonly key: readonly string[];
}

/** Debian's kernel and the programs to boot it. */
export interface DebianTree extends DebianKernel {
  readonly folder: string;
  /** Debian's source of this kernel, `linux-source-6.12.tar.xz`. */
  readonly sourceArchive: string;
  /**
   * The absolute path of a program, unpacked or the machine's own, for running and for reading it. Throws if there is none.
   */
  program(name: string): string;
  /** The environment variables that an unpacked program needs. */
  readonly environment: Readonly<Record<string, string>>;
}

/**
 * Downloads with `apt-get` the packages that are not in the cache, and unpacks them. Needs no root while the package lists
 * are up to date.
 */
export async function debianTree(): Promise<DebianTree> {
  let wanted = await wantedPackages();
  if (wanted === undefined) {
    await announced('apt-get update', () => run('apt-get', ['update', '-qq']));
    wanted = await wantedPackages();
    if (wanted === undefined) {
      throw new Error(`apt knows no kernel ${SERIES}: this needs Debian 12 (with its security updates) or newer`);
    }
  }
  const { release, packages } = wanted;
  const folder = await cached('debian', packages, async (target) => {
    const archives = join(target, 'archives');
    mkdirSync(archives);
    await announced(`downloading ${packages.length} Debian packages (Linux ${release}, QEMU)`, () =>
      download(packages, archives),
    );
    await announced('unpacking them', async () => {
      for (const name of readdirSync(archives)) await run('dpkg', ['-x', join(archives, name), target]);
    });
    rmSync(archives, { recursive: true });
    makeHeadersMovable(target, release);
  });
  const libraries = [join(folder, 'usr/lib/x86_64-linux-gnu'), join(folder, 'lib/x86_64-linux-gnu')];
  const program = programLookup(folder, process.env['PATH']);
  return {
    folder,
    release,
    vmlinuz: join(folder, 'boot', `vmlinuz-${release}`),
    modules: join(folder, 'lib/modules', release, 'kernel'),
    headers: headersOf(folder, release),
    makeArguments: [],
    sourceArchive: join(folder, 'usr/src', `linux-source-${SERIES}.tar.xz`),
    key: packages,
    program,
    environment: {
      LD_LIBRARY_PATH: libraries.join(':'),
      PATH: `${join(folder, 'usr/bin')}:${join(folder, 'bin')}:${process.env['PATH'] ?? ''}`,
      M4: program('m4'),
      ...(existsSync(join(folder, 'usr/share/bison')) ? { BISON_PKGDATADIR: join(folder, 'usr/share/bison') } : {}),
    },
  };
}

/** `name=version` of all packages to unpack, or undefined when apt's lists do not have them. */
async function wantedPackages(): Promise<{ release: string; packages: string[] } | undefined> {
  const names = (await run('apt-cache', ['pkgnames', `linux-image-${SERIES}.`])).split('\n');
  const releases = names.flatMap((name) => /^linux-image-(6\.12\.\d+\+deb\d+-amd64)$/.exec(name)?.[1] ?? []);
  const release = releases.sort((a, b) => patchOf(b) - patchOf(a))[0];
  if (release === undefined) return undefined;
  const version = await versionOf(`linux-image-${release}`);
  const common = release.replace('-amd64', '-common');
  const kbuild = release.replace('-amd64', '');
  const kernel = [
    `linux-image-${release}`,
    `linux-headers-${release}`,
    `linux-headers-${common}`,
    `linux-kbuild-${kbuild}`,
    `linux-source-${SERIES}`,
  ].map((name) => `${name}=${version}`);
  return { release, packages: [...kernel, ...(await missingPrograms())].sort() };
}

function patchOf(release: string): number {
  return Number(release.split(/[.+]/)[2]);
}

async function versionOf(name: string): Promise<string> {
  const shown = await run('apt-cache', ['show', '--no-all-versions', name]);
  return /^Version: (.+)$/m.exec(shown)?.[1] ?? '';
}

/** The programs that the machine lacks, and those of their libraries that it lacks. */
async function missingPrograms(): Promise<string[]> {
  const plan = await run('apt-get', ['-s', 'install', '--no-install-recommends', ...PROGRAMS]);
  // `Inst name (version ...)`; a package that is there in an older version has that version in brackets first.
  return [...plan.matchAll(/^Inst (\S+) \((\S+) /gm)].map((match) => `${match[1]}=${match[2]}`);
}

async function download(packages: readonly string[], folder: string): Promise<void> {
  const args = ['-qq', '-o', 'APT::Sandbox::User=root', 'download', ...packages];
  try {
    await run('apt-get', args, { cwd: folder });
  } catch {
    // Outdated package lists name versions that the archive no longer has.
    await run('apt-get', ['update', '-qq']);
    await run('apt-get', args, { cwd: folder });
  }
}

function headersOf(folder: string, release: string): string {
  return join(folder, 'usr/src', `linux-headers-${release}`);
}

/**
 * Makes the headers usable in this folder: they name each other by their installed paths. Without vmlinux, modules are built
 * without pahole (BTF).
 */
export function makeHeadersMovable(folder: string, release: string): void {
  const makefile = join(headersOf(folder, release), 'Makefile');
  writeFileSync(makefile, readFileSync(makefile, 'utf8').replaceAll('/usr/src/', `${join(folder, 'usr/src')}/`));
  rmSync(join(headersOf(folder, release), 'vmlinux'), { force: true });
}

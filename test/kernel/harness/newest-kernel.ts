import { chmodSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DebianSuites } from '@godwit/bench/debian';
import { NEWEST, unpackedQemu } from '@godwit/bench/qemu';
import { cached } from './cache.js';
import { announced } from './command.js';
import { type DebianKernel, makeHeadersMovable } from './debian-packages.js';

/** The suite that has Debian's newest kernels; it also has the newest QEMU, whose C library the kernel's build programs need. */
export const NEWEST_SUITE = 'trixie-backports';
/** The series that is taken while the suite has it; later the newest one. */
const WANTED = [7, 3] as const;
/** Written last. */
const RELEASE_FILE = 'release';

/**
 * Programs that build modules, in Debian's package linux-kbuild: as they are called, and the file that does the work on x86-64. They are for a
 * newer C library than this machine's.
 */
const BUILD_PROGRAMS = [
  ['scripts/basic/fixdep', 'scripts/basic/fixdep'],
  ['scripts/mod/modpost', 'scripts/mod/modpost.real-lsb-64'],
  ['tools/objtool/objtool', 'tools/objtool/objtool.real-x86'],
] as const;

/**
 * The newest kernel that Debian has for its stable release: Linux 7.3 or newer. Downloads 136 MB and unpacks them when they are not in
 * the cache: image, modules, and what modules are built with.
 */
export async function newestKernel(): Promise<DebianKernel> {
  const { loader } = await unpackedQemu(NEWEST, (text) => process.stdout.write(`kernel: ${text}\n`));
  const folder = await cached('newest-kernel', [NEWEST_SUITE, WANTED.join('.'), ...loader], async (target) => {
    const scratch = mkdtempSync(join(target, 'unpacking-'));
    const suites = await DebianSuites.open([NEWEST_SUITE], scratch);
    const release = newestOf(await suites.names('linux-binary-'));
    const bare = release.replace('-amd64', '');
    const packages = [
      ...['binary', 'modules', 'headers'].map((part) => `linux-${part}-${release}`),
      ...[`linux-headers-${bare}-common`, `linux-kbuild-${bare}`],
    ];
    await announced(`downloading and unpacking ${packages.length} Debian packages (Linux ${release})`, () =>
      suites.unpack(packages, target),
    );
    rmSync(scratch, { recursive: true });
    makeHeadersMovable(target, release);
    for (const [name, file] of BUILD_PROGRAMS)
      makeRunnable(join(target, `usr/lib/linux-kbuild-${bare}`), name, file, loader);
    writeFileSync(join(target, RELEASE_FILE), release);
  });
  const release = readFileSync(join(folder, RELEASE_FILE), 'utf8');
  const modules = join(folder, 'usr/lib/modules', release);
  return {
    release,
    vmlinuz: join(modules, 'vmlinuz'),
    modules: join(modules, 'kernel'),
    headers: join(folder, 'usr/src', `linux-headers-${release}`),
    // Debian built it with GCC 14: this machine's compiler need not have that one's options.
    makeArguments: ['CC=gcc', 'CONFIG_CC_HAS_MIN_FUNCTION_ALIGNMENT='],
    key: [folder, release],
  };
}

/** `7.3.4+deb13-amd64`, of the names of packages `linux-binary-...`: the newest of the wanted series, or of the newest one after it. */
export function newestOf(names: readonly string[]): string {
  const found = names.flatMap((name) => {
    const [, release, ...numbers] = /^linux-binary-((\d+)\.(\d+)\.(\d+)\+deb\d+-amd64)$/.exec(name) ?? [];
    return release === undefined ? [] : [{ release, numbers: numbers.map(Number) }];
  });
  const inOrder = found
    .filter(({ numbers }) => compare(numbers, WANTED) >= 0)
    .sort((a, b) => compare(b.numbers, a.numbers));
  const wanted = inOrder.find(({ numbers }) => numbers[0] === WANTED[0] && numbers[1] === WANTED[1]) ?? inOrder[0];
  if (wanted === undefined) {
    const there = found.map(({ release }) => release).join(', ') || 'none';
    throw new Error(`Debian's ${NEWEST_SUITE} has no Linux ${WANTED.join('.')} or newer; it has ${there}`);
  }
  return wanted.release;
}

function compare(a: readonly number[], b: readonly number[]): number {
  for (let i = 0; i < a.length; i++) {
    const difference = (a[i] as number) - (b[i] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}

/** Lets a program run with another C library than this machine's: a script that calls the library's loader takes its place. */
function makeRunnable(folder: string, name: string, file: string, loader: readonly string[]): void {
  const program = join(folder, `${name}.program`);
  renameSync(join(folder, file), program);
  const script = join(folder, name);
  rmSync(script, { force: true });
  writeFileSync(script, `#!/bin/sh\nexec ${[...loader, program].map((word) => `'${word}'`).join(' ')} "$@"\n`);
  chmodSync(script, 0o755);
}

import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);
const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg';

/**
 * Packages of suites of Debian that need not be this machine's. Nothing is installed, and apt's own lists stay as they are. The archive
 * is that of the machine's own package sources, and apt checks its signatures as usual. Needs no root.
 *
 * @example
 * const backports = await DebianSuites.open(['trixie-backports'], scratch);
 * await backports.unpack(['linux-binary-7.3.4+deb13-amd64'], root);
 */
export class DebianSuites {
  readonly #scratch: string;
  readonly #options: readonly string[];

  /**
   * Fetches the lists of these suites.
   *
   * @param scratch an empty folder for lists and archives, which the caller deletes
   */
  static async open(suites: readonly string[], scratch: string): Promise<DebianSuites> {
    const signed = existsSync(KEYRING) ? `[signed-by=${KEYRING}] ` : '';
    const archive = await debianArchive();
    const lines = suites.map((suite) => `deb ${signed}${archive} ${suite} main\n`);
    writeFileSync(join(scratch, 'sources.list'), lines.join(''));
    const opened = new DebianSuites(scratch);
    await opened.#apt('apt-get', '-qq', '-o', 'APT::Update::Error-Mode=any', 'update');
    return opened;
  }

  private constructor(scratch: string) {
    this.#scratch = scratch;
    // No package counts as installed, so that all dependencies are downloaded, the C library too.
    writeFileSync(join(this.#place('state'), 'status'), '');
    const settings = {
      'Dir::Etc::sourcelist': join(scratch, 'sources.list'),
      'Dir::Etc::sourceparts': '/dev/null',
      'Dir::State': join(scratch, 'state'),
      'Dir::State::status': join(scratch, 'state', 'status'),
      'Dir::State::lists': this.#place('lists'),
      'Dir::Cache': this.#place('cache'),
      'APT::Install-Recommends': '0',
      // By default apt downloads as a user that cannot read this user's cache.
      'APT::Sandbox::User': 'root',
    };
    this.#options = Object.entries(settings).flatMap(([name, value]) => ['-o', `${name}=${value}`]);
  }

  /** The names of all packages that begin with `prefix`. */
  async names(prefix: string): Promise<string[]> {
    return (await this.#apt('apt-cache', 'pkgnames', prefix)).split('\n').filter((name) => name !== '');
  }

  /** Unpacks packages below `root`, without those that they depend on. */
  async unpack(packages: readonly string[], root: string): Promise<void> {
    const folder = this.#place('archives');
    await this.#apt('apt-get', '-qq', 'download', ...packages);
    await unpackAll(folder, root);
  }

  /** Unpacks packages of `suite` and all that they depend on below `root`. */
  async unpackWithDependencies(packages: readonly string[], suite: string, root: string): Promise<void> {
    await this.#apt('apt-get', '-qq', '-t', suite, '-y', '--download-only', 'install', ...packages);
    await unpackAll(join(this.#scratch, 'cache', 'archives'), root);
  }

  async #apt(program: string, ...args: readonly string[]): Promise<string> {
    const options = { cwd: this.#place('archives'), maxBuffer: 2 ** 26 };
    const { stdout } = await run(program, [...this.#options, ...args], options);
    return stdout;
  }

  #place(name: string): string {
    const path = join(this.#scratch, name);
    mkdirSync(path, { recursive: true });
    return path;
  }
}

async function unpackAll(archives: string, root: string): Promise<void> {
  for (const name of readdirSync(archives)) {
    if (!name.endsWith('.deb')) continue;
    await run('dpkg-deb', ['-x', join(archives, name), root]);
    rmSync(join(archives, name));
  }
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
  if (archive === undefined) throw new Error("this machine's package sources have no Debian archive");
  return archive;
}

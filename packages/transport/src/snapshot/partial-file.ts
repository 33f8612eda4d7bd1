import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { lstat, open, readdir, rename, unlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { GodwitError } from '@godwit/core';
import { failed, PositionedFile } from './positioned-file.js';
import { MAGIC } from './snapshot-header.js';

/** Files that this process is writing now. */
const active = new Set<string>();

/**
 * A file under a temporary name beside the one that it is to become: `<path>.<pid>.<8 hex digits>.partial`. It takes
 * `path` when `commit` renames it, and never before, so that `path` is a whole snapshot or what it was.
 */
export class PartialFile {
  readonly file: PositionedFile;
  readonly #target: string;

  private constructor(file: PositionedFile, target: string) {
    this.file = file;
    this.#target = target;
  }

  /**
   * Creates the file, and removes what earlier writers of `path` have left that died before their snapshot was whole.
   * Fails with `GODWIT_CONNECT_FAILED`, not to be tried again.
   */
  static async create(path: string): Promise<PartialFile> {
    await refuseSpecial(path);
    await removeLeftovers(path);
    const name = `${path}.${process.pid}.${randomBytes(4).toString('hex')}.partial`;
    active.add(name);
    try {
      // O_EXCL: never through a link that somebody has put there.
      const flags = constants.O_RDWR | constants.O_CREAT | constants.O_EXCL;
      const file = await PositionedFile.open(name, flags, { direct: true });
      return new PartialFile(file, path);
    } catch (error) {
      active.delete(name);
      throw cannot(`a snapshot cannot be written to ${path}`, error);
    }
  }

  /** Fails when the file has lost its name: somebody has removed or replaced it, and a rename would commit nothing. */
  async mustBeThere(): Promise<void> {
    const { path } = this.file;
    const [ours, found] = await Promise.all([this.file.stat(), lstat(path).catch(() => undefined)]);
    if (found?.ino === ours.ino && found.dev === ours.dev) return;
    throw new GodwitError(
      'GODWIT_SYSCALL',
      `the temporary file ${path} of a snapshot was removed or replaced while it was written; save only once at a time to ${this.#target}`,
    );
  }

  /** Gives the file its name, for good: rename(2), which replaces what had it, and fsync of the directory. */
  async commit(): Promise<void> {
    const { path } = this.file;
    try {
      await rename(path, this.#target);
      active.delete(path);
      const directory = await open(dirname(this.#target), constants.O_RDONLY);
      try {
        await directory.sync();
      } finally {
        await directory.close();
      }
    } catch (error) {
      const { message, cause } = failed('committing', this.#target, error);
      const where = active.has(path)
        ? `it is whole, in ${path}`
        : 'it has its name, but may lose it in a power failure';
      throw new GodwitError('GODWIT_SYSCALL', `${message}; ${where}`, { cause });
    }
  }

  /** Closes the file and leaves it where it is. Never rejects. */
  async close(): Promise<void> {
    await this.file.close();
    active.delete(this.file.path);
  }

  /** Closes the file and removes it. Never rejects. */
  async discard(): Promise<void> {
    await this.file.close();
    await unlink(this.file.path).catch(() => {});
    active.delete(this.file.path);
  }
}

/** rename(2) would replace a device node or a pipe without a word. */
async function refuseSpecial(path: string): Promise<void> {
  let found: Awaited<ReturnType<typeof lstat>>;
  try {
    found = await lstat(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw cannot(`a snapshot cannot be written to ${path}`, error);
  }
  if (found.isFile()) return;
  const what = found.isDirectory() ? 'a directory' : found.isSymbolicLink() ? 'a symbolic link' : 'no regular file';
  throw new GodwitError(
    'GODWIT_CONNECT_FAILED',
    `a snapshot cannot be written to ${path}: that is ${what}; name a file, new or to be replaced`,
    { retry: false },
  );
}

/**
 * Removes the files of writers that have died. One that is whole stays: its writer died between the guest's `go` and the
 * rename, and it may be all that is left of the guest.
 */
async function removeLeftovers(path: string): Promise<void> {
  const folder = dirname(path);
  const start = `${basename(path)}.`;
  // A folder that cannot be listed may still be written to.
  const names = await readdir(folder).catch(() => []);
  for (const name of names) {
    const pid = name.startsWith(start)
      ? /^(\d+)\.[0-9a-f]{8}\.partial$/.exec(name.slice(start.length))?.[1]
      : undefined;
    if (pid === undefined) continue;
    const leftover = join(folder, name);
    if (Number(pid) === process.pid ? active.has(`${path}.${name.slice(start.length)}`) : isAlive(Number(pid)))
      continue;
    if (!(await isWhole(leftover))) await unlink(leftover).catch(() => {});
  }
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    // EPERM: somebody else's process.
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** The header is written at the very end. One that came to the disk without the rest, in a power failure, is kept in vain. */
async function isWhole(path: string): Promise<boolean> {
  try {
    const file = await PositionedFile.open(path, constants.O_RDONLY);
    const start = new Uint8Array(MAGIC.length);
    try {
      await file.read(start, 0);
    } finally {
      await file.close();
    }
    return MAGIC.every((byte, i) => start[i] === byte);
  } catch (error) {
    // An empty or short file is not whole; one that cannot be read is not ours to judge.
    return !(GodwitError.is(error) && error.code === 'GODWIT_BAD_STREAM');
  }
}

/** Not to be tried again: unlike a peer, a folder that is missing does not come by itself. */
function cannot(what: string, error: unknown): GodwitError {
  const { message } = error as Error;
  return new GodwitError('GODWIT_CONNECT_FAILED', `${what}: ${message}`, { cause: error, retry: false });
}

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
 * A file under a temporary name beside its final one: `<path>.<pid>.<8 hex digits>.partial`. It gets the name `path` when
 * `commit` renames it, and never before, so that `path` is always a whole snapshot or the earlier file.
 */
export class PartialFile {
  readonly file: PositionedFile;
  readonly #target: string;

  private constructor(file: PositionedFile, target: string) {
    this.file = file;
    this.#target = target;
  }

  /**
   * Creates the file, and removes the files of earlier writers of `path` that died before their snapshot was whole. Fails
   * with `GODWIT_CONNECT_FAILED`, which is not retried.
   */
  static async create(path: string): Promise<PartialFile> {
    await refuseSpecial(path);
    await removeLeftovers(path);
    const name = `${path}.${process.pid}.${randomBytes(4).toString('hex')}.partial`;
    active.add(name);
    try {
      // With O_EXCL the file is never opened through a link that another process has put there.
      const flags = constants.O_RDWR | constants.O_CREAT | constants.O_EXCL;
      const file = await PositionedFile.open(name, flags, { direct: true });
      return new PartialFile(file, path);
    } catch (error) {
      active.delete(name);
      throw cannot(`a snapshot cannot be written to ${path}`, error);
    }
  }

  /**
   * Fails when the file has lost its name because another process has removed or replaced it: a rename would commit nothing.
   */
  async mustBeThere(): Promise<void> {
    const { path } = this.file;
    const [ours, found] = await Promise.all([this.file.stat(), lstat(path).catch(() => undefined)]);
    if (found?.ino === ours.ino && found.dev === ours.dev) return;
    throw new GodwitError(
      'GODWIT_SYSCALL',
      `the temporary file ${path} of a snapshot was removed or replaced while it was written; save only once at a time to ${this.#target}`,
    );
  }

  /** Gives the file its final name: rename(2), which replaces an earlier file, and fsync of the directory. */
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

/** Refuses a device node or a pipe, which rename(2) would replace without an error. */
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
 * Removes the files of writers that have died. A file that is whole stays: its writer died between `go` and the rename, and
 * the file may be all that is left of the guest.
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
    // EPERM means that the process exists and belongs to another user.
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/**
 * Whether the file is whole, which its header shows, since the header is written last. After a power failure a header may be
 * on the disk without the rest; such a file is kept although it is useless.
 */
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
    // An empty or short file is not whole; a file that cannot be read is kept.
    return !(GodwitError.is(error) && error.code === 'GODWIT_BAD_STREAM');
  }
}

/** The error of a failed call, which is not retried: unlike a peer, a missing folder does not appear by itself. */
function cannot(what: string, error: unknown): GodwitError {
  const { message } = error as Error;
  return new GodwitError('GODWIT_CONNECT_FAILED', `${what}: ${message}`, { cause: error, retry: false });
}

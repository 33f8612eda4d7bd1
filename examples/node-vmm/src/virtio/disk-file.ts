import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { GodwitError } from '@godwit/core';
import { alignedBytes, reopenDirect } from './direct-access.js';
import { mayLockFile, tryLockFile, unlockFile } from './file-lock.js';

/** Bytes of a sector, the unit of a disk's size and of every request. */
export const SECTOR_BYTES = 512;

/** How a file is a disk. */
export interface DiskAccess {
  /** Whether the guest may only read it. Default: it may write too. */
  readonly readonly?: boolean;
  /** Whether reads and writes go past the host's page cache (O_DIRECT). Default false. */
  readonly direct?: boolean;
}

/**
 * A raw file as a disk. Reads and writes are made on threads of libuv's pool.
 *
 * At most one VMM holds the lock for writing: it calls `lock` when its guest begins to run, and `unlock` when the guest is paused. The
 * locks are advisory: a program that takes no lock is not stopped by them, and on some network file systems they apply to one host only.
 */
export class DiskFile {
  readonly path: string;
  /** A multiple of `SECTOR_BYTES`. */
  readonly byteLength: number;
  readonly readonly: boolean;
  readonly direct: boolean;
  readonly #file: FileHandle;
  #locked = false;
  /** Whether the lock is to be kept: `lock` may come while `unlock` still waits. */
  #wanted = false;
  /** Number of writes that have ended, and of those that were flushed since. */
  #written = 0;
  #flushed = 0;

  private constructor(path: string, file: FileHandle, byteLength: number, access: Required<DiskAccess>) {
    this.path = path;
    this.#file = file;
    this.byteLength = byteLength;
    this.readonly = access.readonly;
    this.direct = access.direct;
  }

  /**
   * Opens an existing file or block device. Nothing is locked yet.
   *
   * @throws GodwitError GODWIT_INVALID_ARGUMENT when there is no such file, it cannot be opened, its size is no multiple of a sector, or `direct` is
   * not possible
   */
  static async open(path: string, { readonly = false, direct = false }: DiskAccess = {}): Promise<DiskFile> {
    const flags = readonly ? constants.O_RDONLY : constants.O_RDWR;
    let file: FileHandle;
    try {
      file = await open(path, flags);
    } catch (cause) {
      const { code } = cause as NodeJS.ErrnoException;
      const hint = code === 'ENOENT' ? 'create it, or name another' : 'make it accessible, or name another';
      const how = readonly ? 'be read' : 'be read and written';
      throw new GodwitError('GODWIT_INVALID_ARGUMENT', `the disk ${path} cannot ${how} (${code}): ${hint}`, { cause });
    }
    try {
      const status = await file.stat();
      if (!status.isFile() && !status.isBlockDevice()) {
        throw new GodwitError('GODWIT_INVALID_ARGUMENT', `the disk ${path} is neither a file nor a block device`);
      }
      const byteLength = status.isFile() ? status.size : await endOf(file);
      if (byteLength === 0 || byteLength % SECTOR_BYTES !== 0) {
        throw new GodwitError(
          'GODWIT_INVALID_ARGUMENT',
          `a disk has a multiple of ${SECTOR_BYTES} bytes, and ${path} has ${byteLength}: make it longer (truncate -s)`,
        );
      }
      if (direct) file = await reopenDirect(file, { path, flags, byteLength, sectorBytes: SECTOR_BYTES });
      return new DiskFile(path, file, byteLength, { readonly, direct });
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /**
   * Locks the disk for this VMM: exclusively if the guest writes, otherwise shared with other readers. A second call does nothing.
   *
   * @throws GodwitError GODWIT_DEVICE_BUSY when another VMM has it
   */
  lock(): void {
    this.#wanted = true;
    if (this.#locked) return;
    if (!tryLockFile(this.#file.fd, this.#lockType)) throw this.#busy();
    this.#locked = true;
  }

  /** Checks that `lock` would succeed now, and locks nothing. @throws GodwitError GODWIT_DEVICE_BUSY when it would not */
  requireFree(): void {
    if (!this.#locked && !mayLockFile(this.#file.fd, this.#lockType)) throw this.#busy();
  }

  /** Flushes all writes to the storage, so that another host can read them, and releases the lock. */
  async unlock(): Promise<void> {
    this.#wanted = false;
    if (!this.#locked) return;
    if (this.#flushed < this.#written) await this.flush();
    // `lock` may have been called during the flush.
    if (this.#wanted) return;
    unlockFile(this.#file.fd);
    this.#locked = false;
  }

  /** Reads as many bytes as `bytes` has. @throws Error of the system, or when the file has become shorter */
  async read(position: number, byteLength: number): Promise<Uint8Array> {
    const bytes = this.direct ? alignedBytes(byteLength) : new Uint8Array(byteLength);
    for (let at = 0; at < byteLength; ) {
      const { bytesRead } = await this.#file.read(bytes, at, byteLength - at, position + at);
      if (bytesRead === 0) throw new Error(`${this.path} ends at ${position + at}`);
      at += bytesRead;
    }
    return bytes;
  }

  async write(position: number, given: Uint8Array): Promise<void> {
    const bytes = this.direct ? alignedBytes(given.byteLength) : given;
    if (this.direct) bytes.set(given);
    try {
      for (let at = 0; at < bytes.byteLength; ) {
        const { bytesWritten } = await this.#file.write(bytes, at, bytes.byteLength - at, position + at);
        at += bytesWritten;
      }
    } finally {
      this.#written++;
    }
  }

  /** Resolves when all earlier writes are on the storage. */
  async flush(): Promise<void> {
    const written = this.#written;
    await this.#file.datasync();
    this.#flushed = Math.max(this.#flushed, written);
  }

  async close(): Promise<void> {
    await this.#file.close();
  }

  get #lockType(): 'shared' | 'exclusive' {
    return this.readonly ? 'shared' : 'exclusive';
  }

  #busy(): GodwitError {
    return new GodwitError(
      'GODWIT_DEVICE_BUSY',
      `the disk ${this.path} is in use by another VMM: end that one, or pause its guest`,
    );
  }
}

/** The size of a block device, which `stat` does not report: it is found by a search for the last readable byte. */
async function endOf(file: FileHandle): Promise<number> {
  const one = new Uint8Array(1);
  const has = async (position: number): Promise<boolean> => (await file.read(one, 0, 1, position)).bytesRead === 1;
  if (!(await has(0))) return 0;
  let [below, above] = [0, 1];
  while (await has(above)) [below, above] = [above, above * 2];
  while (above - below > 1) {
    const middle = Math.floor((below + above) / 2);
    if (await has(middle)) below = middle;
    else above = middle;
  }
  return above;
}

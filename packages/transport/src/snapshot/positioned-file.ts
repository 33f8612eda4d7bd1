import { close, constants, fstat, fsync, open, read, type Stats, write } from 'node:fs';
import { promisify } from 'node:util';
import { GodwitError } from '@godwit/core/pages';

const openFile = promisify(open);
const closeFile = promisify(close);
const syncFile = promisify(fsync);
const statFile = promisify(fstat);

/** The signature of `fs.read` and `fs.write` as this file calls them. */
type Transfer = (
  fd: number,
  bytes: Uint8Array,
  at: number,
  length: number,
  position: number,
  done: (error: Error | null, count: number) => void,
) => void;

/** The most bytes that one call moves: the kernel's limit is a little below 2 GiB (read(2), write(2)). */
const MOST_BYTES = 2 ** 30;

/**
 * Offsets, lengths and addresses of transfers beside the page cache are multiples of this, which is a multiple of the sector size of
 * every disk.
 */
const SECTOR_BYTES = 4096;

/** Shorter transfers go through the page cache, which merges them: beside it each would be a separate request to the disk. */
export const LEAST_DIRECT_BYTES = 64 * 1024;

/**
 * A file that is read and written at given places, in Node's thread pool: pread and pwrite between the file and the caller's memory,
 * without a copy. The kernel cannot cancel a transfer, so `close` waits for those under way.
 *
 * With `direct`, long transfers of whole sectors go beside the page cache (O_DIRECT, open(2)), where the filesystem and the caller's
 * memory allow it: this saves a copy, and the guest's pages do not displace other files from memory.
 */
export class PositionedFile {
  readonly path: string;
  readonly #fd: number;
  /** The same file beside the page cache; `undefined` where it was not requested, or the filesystem does not support it. */
  #direct: number | undefined;
  /**
   * True once a transfer beside the page cache was refused, because the memory is not aligned or the filesystem does not support it.
   */
  #refused = false;
  readonly #pending = new Set<Promise<unknown>>();
  #closing: Promise<void> | undefined;
  /** True when something was written since the last `sync` began. */
  #unsynced = false;

  private constructor(path: string, fd: number, direct: number | undefined) {
    this.path = path;
    this.#fd = fd;
    this.#direct = direct;
  }

  static async open(path: string, flags: number, { direct = false } = {}): Promise<PositionedFile> {
    // The file has guest memory, so that only its owner may read it.
    const fd = await openFile(path, flags, 0o600);
    return new PositionedFile(path, fd, direct ? await openDirect(fd, flags) : undefined);
  }

  /** The descriptor, for threads that read the file too; it is open until `close`. */
  get fd(): number {
    return this.#fd;
  }

  /** Writes all of `from`, which is borrowed until the promise settles. Fails with `GODWIT_SYSCALL`. */
  write(from: Uint8Array, position: number): Promise<void> {
    this.#unsynced = true;
    return this.#whole(from, position, 'writing', write);
  }

  /** Fills all of `into`, which is borrowed until the promise settles. Fails with `GODWIT_BAD_STREAM` where the file ends. */
  read(into: Uint8Array, position: number): Promise<void> {
    return this.#whole(into, position, 'reading', read);
  }

  /** Resolves when everything that was written is on the disk (fsync). Writes under way do not count. */
  async sync(): Promise<void> {
    this.#mustBeOpen();
    if (!this.#unsynced) return;
    this.#unsynced = false;
    await this.#track(
      syncFile(this.#fd).catch((error: unknown) => {
        throw failed('writing', this.path, error);
      }),
    );
  }

  /** Notes that another thread writes the same file by another descriptor: `sync` has to make those writes durable too. */
  writtenElsewhere(): void {
    this.#unsynced = true;
  }

  async stat(): Promise<Stats> {
    this.#mustBeOpen();
    return this.#track(statFile(this.#fd));
  }

  /** Begins no further transfer, and resolves when those under way have ended and the descriptor is closed. Never rejects. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    while (this.#pending.size > 0) await Promise.allSettled(this.#pending);
    // An error of close(2) would be one that fsync has already reported.
    await closeFile(this.#fd).catch(() => {});
    if (this.#direct !== undefined) await closeFile(this.#direct).catch(() => {});
    this.#direct = undefined;
  }

  #whole(bytes: Uint8Array, position: number, doing: 'reading' | 'writing', call: Transfer) {
    if (this.#closing !== undefined) return Promise.reject(closed(this.path));
    const moving = new Promise<void>((resolve, reject) => {
      const from = (at: number): void => {
        if (at === bytes.length) {
          resolve();
          return;
        }
        if (this.#closing !== undefined) {
          reject(closed(this.path));
          return;
        }
        const length = Math.min(bytes.length - at, MOST_BYTES);
        const fd = this.#descriptorFor(position + at, length);
        call(fd, bytes, at, length, position + at, (error: Error | null, count: number) => {
          if (error !== null && fd !== this.#fd && (error as NodeJS.ErrnoException).code === 'EINVAL') {
            this.#refused = true;
            from(at);
          } else if (error !== null) reject(failed(doing, this.path, error));
          else if (count === 0) reject(endsEarly(this.path, position + at));
          else from(at + count);
        });
      };
      from(0);
    });
    return this.#track(moving);
  }

  #descriptorFor(position: number, length: number): number {
    const direct = this.#direct !== undefined && !this.#refused && length >= LEAST_DIRECT_BYTES;
    return direct && position % SECTOR_BYTES === 0 && length % SECTOR_BYTES === 0 ? (this.#direct as number) : this.#fd;
  }

  #mustBeOpen(): void {
    if (this.#closing !== undefined) throw closed(this.path);
  }

  #track<T>(promise: Promise<T>): Promise<T> {
    this.#pending.add(promise);
    const over = () => this.#pending.delete(promise);
    promise.then(over, over);
    return promise;
  }
}

/** Opens the file again beside the page cache; resolves with `undefined` where its filesystem does not support this. */
async function openDirect(fd: number, flags: number): Promise<number | undefined> {
  const access = flags & (constants.O_RDONLY | constants.O_WRONLY | constants.O_RDWR);
  return openFile(`/proc/self/fd/${fd}`, access | (constants.O_DIRECT ?? 0)).catch(() => undefined);
}

/** The error of a system call on a snapshot, with what a person can do. */
export function failed(doing: string, path: string, error: unknown): GodwitError {
  const { code, message } = error as NodeJS.ErrnoException;
  const advice =
    code === 'ENOSPC' || code === 'EDQUOT' ? '; a snapshot takes as much room as the guest has RAM in use' : '';
  return new GodwitError('GODWIT_SYSCALL', `${doing} the snapshot ${path} failed: ${message}${advice}`, {
    cause: error,
  });
}

function endsEarly(path: string, position: number): GodwitError {
  return new GodwitError('GODWIT_BAD_STREAM', `the snapshot ${path} ends at byte ${position}: it was truncated`);
}

function closed(path: string): GodwitError {
  return new GodwitError('GODWIT_INVALID_STATE', `the snapshot ${path} is closed`);
}

import { close, constants, fstat, fsync, open, read, type Stats, write } from 'node:fs';
import { promisify } from 'node:util';
import { GodwitError } from '@godwit/core/pages';

const openFile = promisify(open);
const closeFile = promisify(close);
const syncFile = promisify(fsync);
const statFile = promisify(fstat);

/** `fs.read` and `fs.write`, as they are called here. */
type Transfer = (
  fd: number,
  bytes: Uint8Array,
  at: number,
  length: number,
  position: number,
  done: (error: Error | null, count: number) => void,
) => void;

/** One call moves at most this much: the kernel stops a little short of 2 GiB (read(2), write(2)). */
const MOST_BYTES = 2 ** 30;

/** Places, lengths and addresses of transfers beside the page cache are multiples of this: of a sector, on every disk. */
const SECTOR_BYTES = 4096;

/** Shorter transfers go through the page cache, which joins them: beside it each is a request of the disk's. */
export const LEAST_DIRECT_BYTES = 64 * 1024;

/**
 * A file that is read and written at given places, in Node's thread pool: pread and pwrite between the file and the
 * caller's memory, without a copy. The kernel cannot be asked to stop, so `close` waits for what is under way.
 *
 * With `direct`, long transfers of whole sectors go beside the page cache (O_DIRECT, open(2)), where the filesystem and the caller's
 * memory allow it: a copy less, and nothing of the guest that pushes other files out of memory.
 */
export class PositionedFile {
  readonly path: string;
  readonly #fd: number;
  /** The same file beside the page cache; `undefined` where it was not asked for, or cannot be had. */
  #direct: number | undefined;
  /** A transfer beside the page cache was refused: this memory is not aligned, or this filesystem does not do it. */
  #refused = false;
  readonly #pending = new Set<Promise<unknown>>();
  #closing: Promise<void> | undefined;
  /** Something was written since the last `sync` began. */
  #unsynced = false;

  private constructor(path: string, fd: number, direct: number | undefined) {
    this.path = path;
    this.#fd = fd;
    this.#direct = direct;
  }

  static async open(path: string, flags: number, { direct = false } = {}): Promise<PositionedFile> {
    // Guest memory is nobody else's business.
    const fd = await openFile(path, flags, 0o600);
    return new PositionedFile(path, fd, direct ? await openDirect(fd, flags) : undefined);
  }

  /** For threads that read it too; open until `close`. */
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

  /** Somebody writes the same file by another descriptor: `sync` has to make that durable too. */
  writtenElsewhere(): void {
    this.#unsynced = true;
  }

  async stat(): Promise<Stats> {
    this.#mustBeOpen();
    return this.#track(statFile(this.#fd));
  }

  /** Begins nothing any more, and resolves when what was under way has ended and the descriptor is closed. Never rejects. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    while (this.#pending.size > 0) await Promise.allSettled(this.#pending);
    // What close(2) may still say, fsync has said before.
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

/** The open file once more, beside the page cache; `undefined` where its filesystem has nothing like it. */
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

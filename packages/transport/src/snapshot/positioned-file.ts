import { close, fstat, fsync, open, read, type Stats, write } from 'node:fs';
import { promisify } from 'node:util';
import { GodwitError } from '@godwit/core';

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

/**
 * A file that is read and written at given places, in Node's thread pool: pread and pwrite between the file and the
 * caller's memory, without a copy. The kernel cannot be asked to stop, so `close` waits for what is under way.
 */
export class PositionedFile {
  readonly path: string;
  readonly #fd: number;
  readonly #pending = new Set<Promise<unknown>>();
  #closing: Promise<void> | undefined;
  /** Something was written since the last `sync` began. */
  #unsynced = false;

  private constructor(path: string, fd: number) {
    this.path = path;
    this.#fd = fd;
  }

  static async open(path: string, flags: number): Promise<PositionedFile> {
    // Guest memory is nobody else's business.
    return new PositionedFile(path, await openFile(path, flags, 0o600));
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
        call(this.#fd, bytes, at, length, position + at, (error: Error | null, count: number) => {
          if (error !== null) reject(failed(doing, this.path, error));
          else if (count === 0) reject(endsEarly(this.path, position + at));
          else from(at + count);
        });
      };
      from(0);
    });
    return this.#track(moving);
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

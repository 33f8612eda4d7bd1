import { type FileHandle, open } from 'node:fs/promises';
import { GodwitError } from '@godwit/core';

/** With more than this many bytes on their way to the disk, `full` is true and callers have to wait. */
const HIGH_WATER_BYTES = 4 * 2 ** 20;

/** Chunks of one gathering write (IOV_MAX is 1024). */
const MOST_CHUNKS = 512;

interface Entry {
  readonly chunks: readonly Uint8Array[];
  readonly byteLength: number;
  readonly done: ((written: boolean) => void) | undefined;
}

/**
 * A file to which whole entries are appended, in order. It never throws: an error is in `failure`, and from then on
 * entries are dropped. After a failure the file ends after the last whole entry.
 */
export class RecordingFile {
  readonly path: string;
  readonly #handle: FileHandle;
  readonly #onFailure: (error: GodwitError) => void;
  readonly #queue: Entry[] = [];
  readonly #waiters = new Set<() => void>();
  #queuedBytes = 0;
  #bytes = 0;
  #failure: GodwitError | undefined;
  #writing: Promise<void> | undefined;

  private constructor(path: string, handle: FileHandle, onFailure: (error: GodwitError) => void) {
    this.path = path;
    this.#handle = handle;
    this.#onFailure = onFailure;
  }

  /** `onFailure` is called once, when writing fails. Fails with `GODWIT_RECORDING_FAILED`. */
  static async create(path: string, onFailure: (error: GodwitError) => void): Promise<RecordingFile> {
    try {
      // The file has guest memory, so that only its owner may read it; an existing file is never replaced.
      return new RecordingFile(path, await open(path, 'wx', 0o600), onFailure);
    } catch (error) {
      const exists = (error as NodeJS.ErrnoException).code === 'EEXIST';
      const message = exists
        ? `${path} exists already, and a recording replaces nothing; choose another name or remove it`
        : `the recording ${path} cannot be made: ${(error as Error).message}`;
      throw new GodwitError('GODWIT_RECORDING_FAILED', message, { cause: error });
    }
  }

  get failure(): GodwitError | undefined {
    return this.#failure;
  }

  /** Bytes of the whole entries that are in the file. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Whether too many bytes are on their way to the disk: see `drained`. */
  get full(): boolean {
    return this.#queuedBytes > HIGH_WATER_BYTES;
  }

  /** Appends an entry. `chunks` are borrowed until `done` is called, which happens exactly once. */
  append(chunks: readonly Uint8Array[], done?: (written: boolean) => void): void {
    if (this.#failure !== undefined) {
      done?.(false);
      return;
    }
    let byteLength = 0;
    for (const chunk of chunks) byteLength += chunk.length;
    this.#queue.push({ chunks, byteLength, done });
    this.#queuedBytes += byteLength;
    this.#writing ??= this.#writeAll();
  }

  /** Calls `then` once the disk has caught up or failed; the returned function cancels the call. */
  drained(then: () => void): () => void {
    this.#waiters.add(then);
    return () => this.#waiters.delete(then);
  }

  /** Writes the queued entries, then `lastEntry`, and closes the file. Never rejects: see `failure`. */
  async close(lastEntry: () => Uint8Array): Promise<void> {
    await this.#writing;
    try {
      // The last entry is also written after a failure, after the last whole entry: a full disk has room for these few
      // bytes.
      if (this.#failure !== undefined) await this.#handle.truncate(this.#bytes);
      await this.#write([lastEntry()]);
    } catch (error) {
      this.#fail(error);
    }
    try {
      await this.#handle.close();
    } catch (error) {
      this.#fail(error);
    }
  }

  async #writeAll(): Promise<void> {
    // Frames that are sent in the same turn of the event loop share a write.
    await undefined;
    while (this.#queue.length > 0) {
      const batch: Entry[] = [];
      let chunks = 0;
      for (const entry of this.#queue) {
        if (batch.length > 0 && chunks + entry.chunks.length > MOST_CHUNKS) break;
        batch.push(entry);
        chunks += entry.chunks.length;
      }
      this.#queue.splice(0, batch.length);
      if (this.#failure === undefined) {
        try {
          await this.#write(batch.flatMap((entry) => entry.chunks));
        } catch (error) {
          this.#fail(error);
        }
      }
      for (const entry of batch) {
        this.#queuedBytes -= entry.byteLength;
        entry.done?.(this.#failure === undefined);
      }
      if (!this.full) this.#wake();
    }
    this.#writing = undefined;
  }

  async #write(chunks: readonly Uint8Array[]): Promise<void> {
    let left = chunks;
    let at = this.#bytes;
    while (left.length > 0) {
      const { bytesWritten } = await this.#handle.writev(left, at);
      at += bytesWritten;
      left = behind(left, bytesWritten);
    }
    this.#bytes = at;
  }

  #fail(error: unknown): void {
    if (this.#failure !== undefined) return;
    const detail = (error as Error).message;
    this.#failure = new GodwitError(
      'GODWIT_RECORDING_FAILED',
      `the recording ${this.path} failed after ${this.#bytes} bytes: ${detail}`,
      { cause: error },
    );
    this.#wake();
    this.#onFailure(this.#failure);
  }

  #wake(): void {
    const waiters = [...this.#waiters];
    this.#waiters.clear();
    for (const wake of waiters) wake();
  }
}

/** The rest of `chunks` after their first `count` bytes. */
function behind(chunks: readonly Uint8Array[], count: number): readonly Uint8Array[] {
  let skipped = 0;
  for (const [i, chunk] of chunks.entries()) {
    if (skipped + chunk.length > count) return [chunk.subarray(count - skipped), ...chunks.slice(i + 1)];
    skipped += chunk.length;
  }
  return [];
}

import { closeSync, constants, openSync, writeSync } from 'node:fs';
import { DirtyBitmap, digestWords, isZeroPage, type PageTarget } from '@godwit/core/pages';
import { failed, LEAST_DIRECT_BYTES } from './positioned-file.js';

/** Makes `snapshotTarget` on another thread, with its options. */
export const SNAPSHOT_TARGET = { module: import.meta.url, make: 'snapshotTarget' } as const;

/** Goes to another thread as it is. */
export interface SnapshotTargetOptions {
  readonly path: string;
  /** Open until the target is made: it then has descriptors of its own. */
  readonly fd: number;
  readonly pageSize: number;
  readonly blocks: readonly SnapshotTargetBlock[];
}

/** Where a block's pages go. */
export interface SnapshotTargetBlock {
  readonly pageCount: number;
  /** The bitmap of present pages, and two words for each page: this thread alone writes both until it has ended. */
  readonly present: SharedArrayBuffer;
  readonly digests: SharedArrayBuffer;
  /** Where page 0 of the block is in the file. */
  readonly pagesOffset: number;
}

/**
 * Writes pages of a background snapshot to their places in the file, by blocking calls, on a thread that does nothing else. A page that is
 * zero is left out. Long runs go beside the page cache, where the filesystem does that.
 *
 * @throws GodwitError `GODWIT_SYSCALL` from `write` where the file cannot be written: the disk is full
 */
export function snapshotTarget(options: SnapshotTargetOptions): PageTarget {
  return new SnapshotTarget(options);
}

class SnapshotTarget implements PageTarget {
  readonly #path: string;
  readonly #pageSize: number;
  readonly #offsets: readonly number[];
  readonly #present: readonly DirtyBitmap[];
  readonly #digests: readonly Uint32Array[];
  readonly #fd: number;
  /** The same file beside the page cache; undefined where that cannot be had. */
  #direct: number | undefined;
  #words: Int32Array | undefined;

  constructor({ path, fd, pageSize, blocks }: SnapshotTargetOptions) {
    this.#path = path;
    this.#pageSize = pageSize;
    this.#offsets = blocks.map(({ pagesOffset }) => pagesOffset);
    this.#present = blocks.map(({ pageCount, present }) => new DirtyBitmap(pageCount, present));
    this.#digests = blocks.map(({ digests }) => new Uint32Array(digests));
    // Another open of the same file, whatever becomes of its name and of the descriptor that it was named by.
    const same = `/proc/self/fd/${fd}`;
    this.#fd = openSync(same, constants.O_WRONLY);
    try {
      this.#direct = openSync(same, constants.O_WRONLY | (constants.O_DIRECT ?? 0));
    } catch {
      this.#direct = undefined;
    }
  }

  write(block: number, page: number, pageCount: number, bytes: Uint8Array, offset: number): number {
    const size = this.#pageSize;
    const digests = this.#digests[block] as Uint32Array;
    if (this.#words?.buffer !== bytes.buffer)
      this.#words = new Int32Array(bytes.buffer, 0, bytes.buffer.byteLength >>> 2);
    const words = this.#words;
    const perPage = size / 4;
    const first = (bytes.byteOffset + offset) / 4;
    let written = 0;
    let begin = 0;
    for (let i = 0; i <= pageCount; i++) {
      const zero = i === pageCount || isZeroPage(words, first + i * perPage, perPage);
      if (!zero) {
        digestWords(words, first + i * perPage, perPage, digests, (page + i) * 2);
        continue;
      }
      if (i > begin) written += this.#run(block, page + begin, i - begin, bytes, offset + begin * size);
      begin = i + 1;
    }
    return written;
  }

  close(): void {
    closeSync(this.#fd);
    if (this.#direct !== undefined) closeSync(this.#direct);
  }

  #run(block: number, page: number, pageCount: number, bytes: Uint8Array, offset: number): number {
    const byteLength = pageCount * this.#pageSize;
    const position = (this.#offsets[block] as number) + page * this.#pageSize;
    for (let done = 0; done < byteLength; ) {
      const left = byteLength - done;
      // A rest that is no whole sector goes through the page cache.
      const direct = this.#direct !== undefined && left >= LEAST_DIRECT_BYTES && done % this.#pageSize === 0;
      const fd = direct ? (this.#direct as number) : this.#fd;
      try {
        done += writeSync(fd, bytes, offset + done, left, position + done);
      } catch (error) {
        if (!direct || (error as NodeJS.ErrnoException).code !== 'EINVAL') throw failed('writing', this.#path, error);
        // This filesystem does not do it.
        closeSync(this.#direct as number);
        this.#direct = undefined;
      }
    }
    (this.#present[block] as DirtyBitmap).setRange(page, pageCount);
    return byteLength;
  }
}

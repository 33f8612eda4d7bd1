import { closeSync, constants, openSync, writeSync } from 'node:fs';
import { DirtyBitmap, digestPages, isZeroPage, type PageTarget } from '@godwit/core/pages';
import { failed, LEAST_DIRECT_BYTES } from './positioned-file.js';

/** Makes `snapshotTarget` on another thread, with its options. */
export const SNAPSHOT_TARGET = { module: import.meta.url, make: 'snapshotTarget' } as const;

/** The options of `snapshotTarget`, which can be passed to another thread as they are. */
export interface SnapshotTargetOptions {
  readonly path: string;
  /** The descriptor, which stays open until the target is made: the target opens descriptors of its own. */
  readonly fd: number;
  readonly pageSize: number;
  readonly blocks: readonly SnapshotTargetBlock[];
}

/** The place of a block's pages. */
export interface SnapshotTargetBlock {
  readonly pageCount: number;
  /** The bitmap of present pages, and two words for each page: this thread alone writes both until it has ended. */
  readonly present: SharedArrayBuffer;
  readonly digests: SharedArrayBuffer;
  /** The offset of the block's page 0 in the file. */
  readonly pagesOffset: number;
}

/**
 * Writes pages of a background snapshot to their places in the file, by blocking calls on a thread that has no other work. A page that is
 * zero is left out. Long runs go beside the page cache, where the filesystem supports that.
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
  /** The descriptor of the same file beside the page cache; undefined where that is not supported. */
  #direct: number | undefined;
  #words: Int32Array | undefined;

  constructor({ path, fd, pageSize, blocks }: SnapshotTargetOptions) {
    this.#path = path;
    this.#pageSize = pageSize;
    this.#offsets = blocks.map(({ pagesOffset }) => pagesOffset);
    this.#present = blocks.map(({ pageCount, present }) => new DirtyBitmap(pageCount, present));
    this.#digests = blocks.map(({ digests }) => new Uint32Array(digests));
    // This path opens the same file again, independently of its name and of the given descriptor.
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
    if (this.#words?.buffer !== bytes.buffer)
      this.#words = new Int32Array(bytes.buffer, 0, Math.floor(bytes.buffer.byteLength / 4));
    const words = this.#words;
    const perPage = size / 4;
    const first = (bytes.byteOffset + offset) / 4;
    let written = 0;
    let begin = 0;
    for (let i = 0; i <= pageCount; i++) {
      const zero = i === pageCount || isZeroPage(words, first + i * perPage, perPage);
      if (!zero) continue;
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
    digestPages(bytes, offset, byteLength, this.#pageSize, this.#digests[block] as Uint32Array, 2 * page);
    const position = (this.#offsets[block] as number) + page * this.#pageSize;
    for (let done = 0; done < byteLength; ) {
      const left = byteLength - done;
      // A rest that is not a whole sector goes through the page cache.
      const direct = this.#direct !== undefined && left >= LEAST_DIRECT_BYTES && done % this.#pageSize === 0;
      const fd = direct ? (this.#direct as number) : this.#fd;
      try {
        done += writeSync(fd, bytes, offset + done, left, position + done);
      } catch (error) {
        if (!direct || (error as NodeJS.ErrnoException).code !== 'EINVAL') throw failed('writing', this.#path, error);
        // The filesystem does not support transfers beside the page cache.
        closeSync(this.#direct as number);
        this.#direct = undefined;
      }
    }
    (this.#present[block] as DirtyBitmap).setRange(page, pageCount);
    return byteLength;
  }
}

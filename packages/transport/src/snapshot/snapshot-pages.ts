import { createHash } from 'node:crypto';
import { closeSync, constants, openSync, readSync } from 'node:fs';
import { DIGEST_BYTES, digestPages, GodwitError, type PagePlace, type PageSource } from '@godwit/core/pages';

/* The parts with which a thread reads and writes a snapshot have one entry point. */
export { SNAPSHOT_TARGET, type SnapshotTargetOptions, snapshotTarget } from './snapshot-target.js';

/** Makes `snapshotPages` on another thread, with its options. */
export const SNAPSHOT_PAGES = { module: import.meta.url, make: 'snapshotPages' } as const;

/** The options of `snapshotPages`, which can be passed to another thread as they are. */
export interface SnapshotPagesOptions {
  readonly path: string;
  /** The descriptor, which stays open until the source is made: the source opens a descriptor of its own. */
  readonly fd: number;
  readonly pageSize: number;
  readonly blocks: readonly SnapshotBlock[];
  readonly indexOffset: number;
  readonly indexBytes: number;
  readonly indexSha256: Uint8Array;
}

interface SnapshotBlock {
  readonly id: string;
  /** The bitmap of present pages, whose checksum is right. */
  readonly present: SharedArrayBuffer;
  /** The offsets in the file of the block's page 0, and of the digest of its first present page. */
  readonly pagesOffset: number;
  readonly digestsOffset: number;
}

/** The number of present pages before a word is kept for every so many words of a bitmap. */
const WORDS_PER_COUNT = 8;
/** Most pages of a request. */
const MOST_PAGES = 1024;
/** The index is hashed in steps of this size. */
const STEP_BYTES = 2 ** 20;

/**
 * Reads pages of a snapshot for a guest that already runs, by blocking calls on a thread that has no other work. Every page is compared
 * with its digest before it is handed over, so that the guest never sees a page that differs from the saved one. Only present pages may
 * be asked for.
 *
 * @throws GodwitError `GODWIT_BAD_STREAM` from `take` for a page that is damaged or truncated, `GODWIT_SYSCALL` where the file cannot be
 * read; `GODWIT_BAD_STREAM` from `finish` when the index as a whole does not match its checksum
 */
export function snapshotPages(options: SnapshotPagesOptions): PageSource {
  return new SnapshotPages(options);
}

class SnapshotPages implements PageSource {
  readonly #options: SnapshotPagesOptions;
  /** The guest runs on, and needs the rest of the file, when the link that the given descriptor belongs to has ended. */
  readonly #fd: number;
  readonly #ranks: (PageRanks | undefined)[];
  readonly #asked: { block: number; page: number; pageCount: number }[] = [];
  readonly #saved = new Uint32Array((MOST_PAGES * DIGEST_BYTES) / 4);
  readonly #savedBytes = new Uint8Array(this.#saved.buffer);
  readonly #found = new Uint32Array((MOST_PAGES * DIGEST_BYTES) / 4);

  constructor(options: SnapshotPagesOptions) {
    this.#options = options;
    // This path opens the same file again, independently of its name and of the given descriptor.
    this.#fd = openSync(`/proc/self/fd/${options.fd}`, constants.O_RDONLY);
    this.#ranks = options.blocks.map(() => undefined);
  }

  warmUp(): void {
    for (const block of this.#ranks.keys()) this.#ranksOf(block);
  }

  request(block: number, page: number, pageCount: number): void {
    this.#asked.push({ block, page, pageCount });
  }

  take(into: Uint8Array, place: PagePlace): number {
    const next = this.#asked.shift();
    if (next === undefined) return 0;
    const { block, page, pageCount } = next;
    place.block = block;
    place.page = page;
    const { pageSize, blocks } = this.#options;
    const { pagesOffset, digestsOffset } = blocks[block] as SnapshotBlock;
    const rank = this.#ranksOf(block).before(page);
    this.#read(into, pageCount * pageSize, pagesOffset + page * pageSize);
    this.#read(this.#savedBytes, pageCount * DIGEST_BYTES, digestsOffset + rank * DIGEST_BYTES);
    digestPages(into, 0, pageCount * pageSize, pageSize, this.#found, 0);
    for (let i = 0; i < pageCount; i++) {
      if (this.#found[i * 2] === this.#saved[i * 2] && this.#found[i * 2 + 1] === this.#saved[i * 2 + 1]) continue;
      place.page = page + i;
      throw this.#damaged(`page ${page + i} of RAM block "${blocks[block]?.id}" does not match its checksum`);
    }
    return pageCount;
  }

  finish(): void {
    const { indexOffset, indexBytes, indexSha256 } = this.#options;
    const hash = createHash('sha256');
    const step = new Uint8Array(Math.min(STEP_BYTES, indexBytes));
    for (let at = 0; at < indexBytes; at += step.length) {
      const bytes = Math.min(step.length, indexBytes - at);
      this.#read(step, bytes, indexOffset + at);
      hash.update(step.subarray(0, bytes));
    }
    if (!hash.digest().equals(indexSha256)) throw this.#damaged('the index of its pages does not match its checksum');
  }

  close(): void {
    closeSync(this.#fd);
  }

  #ranksOf(block: number): PageRanks {
    const { present } = this.#options.blocks[block] as SnapshotBlock;
    const ranks = this.#ranks[block] ?? new PageRanks(new Int32Array(present));
    this.#ranks[block] = ranks;
    return ranks;
  }

  #read(into: Uint8Array, byteLength: number, position: number): void {
    const { path } = this.#options;
    for (let done = 0; done < byteLength; ) {
      let bytes: number;
      try {
        bytes = readSync(this.#fd, into, done, byteLength - done, position + done);
      } catch (error) {
        const { message } = error as Error;
        throw new GodwitError('GODWIT_SYSCALL', `reading the snapshot ${path} failed: ${message}`, { cause: error });
      }
      if (bytes === 0) throw this.#damaged(`it ends at byte ${position + done}: it was truncated while the guest ran`);
      done += bytes;
    }
  }

  #damaged(what: string): GodwitError {
    return new GodwitError('GODWIT_BAD_STREAM', `the snapshot ${this.#options.path} is damaged: ${what}`);
  }
}

/** Counts the present pages before a page, which gives the index of its digest. */
class PageRanks {
  readonly #words: Int32Array;
  readonly #counts: Uint32Array;

  constructor(words: Int32Array) {
    this.#words = words;
    this.#counts = new Uint32Array(Math.ceil(words.length / WORDS_PER_COUNT) + 1);
    let count = 0;
    for (let i = 0; i < words.length; i++) {
      if (i % WORDS_PER_COUNT === 0) this.#counts[i / WORDS_PER_COUNT] = count;
      count += bitsOf(words[i] as number);
    }
  }

  before(page: number): number {
    const word = page >>> 5;
    const first = Math.floor(word / WORDS_PER_COUNT);
    let count = this.#counts[first] as number;
    for (let i = first * WORDS_PER_COUNT; i < word; i++) count += bitsOf(this.#words[i] as number);
    return count + bitsOf((this.#words[word] as number) & ((1 << (page & 31)) - 1));
  }
}

function bitsOf(word: number): number {
  let bits = word - ((word >>> 1) & 0x55555555);
  bits = (bits & 0x33333333) + ((bits >>> 2) & 0x33333333);
  return Math.imul((bits + (bits >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}

import { DirtyBitmap, GodwitError, type VerifiedFrame } from '@godwit/core';
import { DIGEST_BYTES } from '@godwit/core/pages';
import { byteCount, PageDigester, pageCount } from './page-segments.js';
import type { BlockIndex } from './snapshot-metadata.js';
import type { SnapshotWriter } from './snapshot-writer.js';

/** The file is read back in steps of this size, in bytes. */
const STEP_BYTES = 2 ** 20;

/** How many differing pages are named, as on the wire. */
const NAMED = 16;

/**
 * The comparison of RAM between `ready` and `go`, against the file: its pages are read back, and both their digests and
 * those with which the snapshot will be checked when it is restored must equal the source's.
 */
export class SaveCheck {
  readonly #writer: SnapshotWriter;
  readonly #pageSize: number;
  readonly #digester: PageDigester;
  readonly #mentioned: readonly DirtyBitmap[];
  readonly #buffer: Uint8Array;
  readonly #found = new Uint32Array(2);
  readonly #differences: number[] = [];
  #compared = 0;
  #different = 0;

  constructor(writer: SnapshotWriter, pageSize: number) {
    this.#writer = writer;
    this.#pageSize = pageSize;
    this.#digester = new PageDigester(pageSize);
    this.#mentioned = writer.blocks.map(({ present }) => new DirtyBitmap(present.pageCount));
    this.#buffer = new Uint8Array(Math.max(STEP_BYTES, pageSize));
  }

  /** `payload` holds the source's digests of the pages of `runs`. */
  async compare(block: number, runs: readonly number[], payload: readonly Uint8Array[]): Promise<void> {
    const bytes = byteCount(payload);
    const mentioned = this.#mentioned[block];
    if (mentioned === undefined || bytes !== pageCount(runs) * DIGEST_BYTES) {
      throw new GodwitError('GODWIT_PROTOCOL', `a "digests" frame of block ${block} has ${bytes} bytes of digests`);
    }
    const theirs = new Uint32Array(bytes / 4);
    const copy = new Uint8Array(theirs.buffer);
    let at = 0;
    for (const chunk of payload) {
      copy.set(chunk, at);
      at += chunk.length;
    }
    let next = 0;
    for (let i = 0; i < runs.length; i += 2) {
      mentioned.setRange(runs[i] as number, runs[i + 1] as number);
      await this.#eachPage(block, runs[i] as number, runs[i + 1] as number, (page, offset) => {
        this.#digester.digest(this.#buffer, offset, this.#pageSize, this.#found, 0);
        const { present, digests } = this.#writer.blocks[block] as BlockIndex;
        const [a, b] = [theirs[next], theirs[next + 1]];
        next += 2;
        const inFile = this.#found[0] === a && this.#found[1] === b;
        const inIndex = digests[page * 2] === a && digests[page * 2 + 1] === b;
        return present.has(page) && inFile && inIndex;
      });
    }
  }

  /** Checks that every page without a digest from the source is zero. */
  async finish(): Promise<VerifiedFrame> {
    for (const [block, { present }] of this.#writer.blocks.entries()) {
      const mentioned = this.#mentioned[block] as DirtyBitmap;
      for (let page = present.nextDirty(0); page !== -1; page = present.nextDirty(page + 1)) {
        if (mentioned.has(page)) continue;
        await this.#eachPage(block, page, 1, (_, offset) =>
          this.#buffer.subarray(offset, offset + this.#pageSize).every((byte) => byte === 0),
        );
      }
    }
    return {
      type: 'verified',
      pagesCompared: this.#compared,
      pagesDifferent: this.#different,
      differences: this.#differences,
    };
  }

  async #eachPage(
    block: number,
    firstPage: number,
    pages: number,
    isRight: (page: number, offset: number) => boolean,
  ): Promise<void> {
    const step = this.#buffer.length / this.#pageSize;
    for (let first = firstPage; first < firstPage + pages; first += step) {
      const count = Math.min(step, firstPage + pages - first);
      await this.#writer.readBack(block, first, this.#buffer.subarray(0, count * this.#pageSize));
      for (let i = 0; i < count; i++) {
        this.#compared++;
        if (isRight(first + i, i * this.#pageSize)) continue;
        this.#different++;
        if (this.#differences.length < NAMED * 2) this.#differences.push(block, first + i);
      }
    }
  }
}

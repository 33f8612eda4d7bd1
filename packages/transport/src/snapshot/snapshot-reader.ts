import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { DirtyBitmap, GodwitError, type ThreadRecipe } from '@godwit/core';
import { DIGEST_BYTES } from '@godwit/core/pages';
import { FairTurns } from './fair-turns.js';
import { digestBytes, eachSegment, holdWholePages, PageDigester } from './page-segments.js';
import { PositionedFile } from './positioned-file.js';
import { decodeHeader, HEADER_BYTES, sha256 } from './snapshot-header.js';
import {
  type BlockIndex,
  blockPages,
  type DevicePiece,
  parseMetadata,
  type SnapshotMetadata,
} from './snapshot-metadata.js';
import { SNAPSHOT_PAGES, type SnapshotPagesOptions } from './snapshot-pages.js';

/** The index is read, and hashed, in steps of this size: half a millisecond. */
const STEP_BYTES = 2 ** 20;

/** Pages of one block that are read together. */
export interface SnapshotBatch {
  readonly block: number;
  /** Flat [first page, page count, ...]. */
  readonly runs: number[];
  readonly pages: number;
  /** The index, among the block's digests, of the first page's digest; those of the other pages follow. */
  readonly firstDigest: number;
}

/**
 * An open snapshot file whose header and metadata were checked. Pages, device state and index are checked as they are read, against
 * the digests in the index and the checksums in the metadata.
 */
export class SnapshotReader {
  readonly metadata: SnapshotMetadata;
  readonly #file: PositionedFile;
  readonly #digester: PageDigester;
  readonly #turns = new FairTurns();

  private constructor(file: PositionedFile, metadata: SnapshotMetadata) {
    this.#file = file;
    this.metadata = metadata;
    this.#digester = new PageDigester(metadata.hello.pageSize);
  }

  /**
   * Fails with `GODWIT_CONNECT_FAILED` when there is no file that can be read, `GODWIT_BAD_STREAM` for a file that is foreign,
   * incomplete or damaged, `GODWIT_VERSION_MISMATCH` for a newer format and `GODWIT_LIMIT_EXCEEDED` for too large metadata.
   */
  static async open(path: string): Promise<SnapshotReader> {
    let file: PositionedFile;
    try {
      // Without O_NONBLOCK the open of a pipe would wait for its other end.
      file = await PositionedFile.open(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0), { direct: true });
    } catch (error) {
      const { message } = error as Error;
      throw new GodwitError('GODWIT_CONNECT_FAILED', `the snapshot ${path} cannot be opened: ${message}`, {
        cause: error,
        retry: false,
      });
    }
    try {
      return new SnapshotReader(file, await readMetadata(file));
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** Reads which pages are present, and their digests: 1 bit for each page of the guest and 8 bytes for each present one. */
  async readIndex(): Promise<readonly BlockIndex[]> {
    const { hello, presentPages, indexSha256 } = this.metadata;
    const hash = createHash('sha256');
    let offset = this.metadata.indexOffset;
    const next = async (into: Uint8Array): Promise<void> => {
      for (let at = 0; at < into.length; at += STEP_BYTES) {
        const step = into.subarray(at, at + STEP_BYTES);
        await this.#file.read(step, offset + at);
        hash.update(step);
      }
      offset += into.length;
    };
    const blocks: BlockIndex[] = [];
    for (const [i, pages] of blockPages(hello).entries()) {
      const present = new DirtyBitmap(pages);
      await next(present.bytes);
      const digests = new Uint32Array((presentPages[i] as number) * (DIGEST_BYTES / 4));
      await next(digestBytes(digests, 0, presentPages[i] as number));
      blocks.push({ present, digests });
    }
    if (!hash.digest().equals(indexSha256)) {
      throw damaged(this.#file.path, 'the index of its pages does not match its checksum');
    }
    this.#checkCounts(blocks.map(({ present }) => present));
    return blocks;
  }

  #checkCounts(bitmaps: readonly DirtyBitmap[]): void {
    const { presentPages } = this.metadata;
    for (const [i, present] of bitmaps.entries()) {
      // A file with a right checksum may still have a bitmap with bits past the last page, or with a wrong number of pages.
      present.maskTail();
      const set = present.count();
      if (set === presentPages[i]) continue;
      throw damaged(
        this.#file.path,
        `RAM block ${i} has ${set} pages in its bitmap and ${presentPages[i]} in the metadata`,
      );
    }
  }

  /**
   * Reads which pages are present, without their digests, which is enough to let a guest run. Of a snapshot that has no separate
   * checksum of its bitmaps, all digests are read too.
   */
  async readBitmaps(): Promise<readonly DirtyBitmap[]> {
    const { hello, presentPages, bitmapsSha256 } = this.metadata;
    if (bitmapsSha256 === undefined) return (await this.readIndex()).map(({ present }) => present);
    const hash = createHash('sha256');
    const bitmaps: DirtyBitmap[] = [];
    let offset = this.metadata.indexOffset;
    for (const [i, pages] of blockPages(hello).entries()) {
      const present = new DirtyBitmap(pages);
      await this.#file.read(present.bytes, offset);
      hash.update(present.bytes);
      offset += present.bytes.length + (presentPages[i] as number) * DIGEST_BYTES;
      bitmaps.push(present);
    }
    if (!hash.digest().equals(bitmapsSha256)) {
      throw damaged(this.#file.path, 'its bitmaps of pages do not match their checksum');
    }
    this.#checkCounts(bitmaps);
    return bitmaps;
  }

  /** Reads the pages that the guest needs first; undefined when the snapshot does not say. */
  async readWorkingSet(): Promise<readonly DirtyBitmap[] | undefined> {
    const { hello, workingSet } = this.metadata;
    if (workingSet === undefined) return undefined;
    const hash = createHash('sha256');
    const bitmaps: DirtyBitmap[] = [];
    let { offset } = workingSet;
    for (const pages of blockPages(hello)) {
      const bitmap = new DirtyBitmap(pages);
      await this.#file.read(bitmap.bytes, offset);
      hash.update(bitmap.bytes);
      offset += bitmap.bytes.length;
      bitmap.maskTail();
      bitmaps.push(bitmap);
    }
    if (hash.digest().equals(workingSet.sha256)) return bitmaps;
    throw damaged(this.#file.path, 'the bitmaps of its working set do not match their checksum');
  }

  /**
   * The recipe with which other threads read pages while the guest runs, once the bitmaps were read. They make their sources before `close`,
   * which does not disturb a source that was made.
   */
  pagesRecipe(bitmaps: readonly DirtyBitmap[]): ThreadRecipe {
    const { hello, blockOffsets, presentPages, indexOffset, indexSha256 } = this.metadata;
    let digestsOffset = indexOffset;
    const blocks = bitmaps.map((present, i) => {
      digestsOffset += present.bytes.length;
      const shared = new SharedArrayBuffer(present.bytes.length);
      new Uint8Array(shared).set(present.bytes);
      const { id } = hello.blocks[i] as { readonly id: string };
      const block = { id, present: shared, pagesOffset: blockOffsets[i] as number, digestsOffset };
      digestsOffset += (presentPages[i] as number) * DIGEST_BYTES;
      return block;
    });
    const { path, fd } = this.#file;
    const options: SnapshotPagesOptions = {
      ...{ path, fd, pageSize: hello.pageSize, blocks },
      ...{ indexOffset, indexBytes: digestsOffset - indexOffset, indexSha256 },
    };
    return { ...SNAPSHOT_PAGES, options };
  }

  /** Reads the pages of a batch into `into`, and checks every one. */
  async readPages(batch: SnapshotBatch, index: BlockIndex, into: readonly Uint8Array[]): Promise<void> {
    const { pageSize } = this.metadata.hello;
    const start = this.metadata.blockOffsets[batch.block] as number;
    const direct = holdWholePages(into, pageSize);
    const chunks = direct ? into : [new Uint8Array(batch.pages * pageSize)];
    const reads: Promise<void>[] = [];
    eachSegment(batch.runs, pageSize, chunks, (page, chunk, at, length) => {
      reads.push(this.#file.read(chunk.subarray(at, at + length), start + page * pageSize));
    });
    // All reads are awaited, even when one fails: until then the memory is borrowed.
    for (const result of await Promise.allSettled(reads)) if (result.status === 'rejected') throw result.reason;
    await this.#turns.next();
    const found = new Uint32Array(batch.pages * 2);
    let at = 0;
    eachSegment(batch.runs, pageSize, chunks, (_, chunk, offset, length) => {
      this.#digester.digest(chunk, offset, length, found, at);
      at += (length / pageSize) * 2;
    });
    for (let i = 0; i < found.length; i++) {
      if (found[i] !== index.digests[batch.firstDigest * 2 + i]) throw this.#wrongPage(batch, i >>> 1);
    }
    if (!direct) scatter(chunks[0] as Uint8Array, into);
  }

  /** Reads a piece of device state into `into`, and checks it. */
  async readPiece(piece: DevicePiece, into: readonly Uint8Array[]): Promise<void> {
    const [only] = into;
    const direct = into.length === 1 && only !== undefined;
    const bytes = direct ? only : new Uint8Array(piece.byteLength);
    await this.#file.read(bytes, piece.offset);
    if (!sha256(bytes).equals(piece.sha256)) {
      const { id } = this.metadata.hello.devices[piece.device] as { readonly id: string };
      throw damaged(this.#file.path, `state of device "${id}" at byte ${piece.offset} does not match its checksum`);
    }
    if (!direct) scatter(bytes, into);
  }

  /** Resolves when nothing is borrowed any more and the file is closed. */
  close(): Promise<void> {
    return this.#file.close();
  }

  #wrongPage({ block, runs }: SnapshotBatch, nth: number): GodwitError {
    let left = nth;
    let page = 0;
    for (let i = 0; i < runs.length && left >= 0; i += 2) {
      page = (runs[i] as number) + left;
      left -= runs[i + 1] as number;
    }
    const { id } = this.metadata.hello.blocks[block] as { readonly id: string };
    return damaged(this.#file.path, `page ${page} of RAM block "${id}" does not match its checksum`);
  }
}

async function readMetadata(file: PositionedFile): Promise<SnapshotMetadata> {
  const { path } = file;
  const stats = await file.stat();
  if (!stats.isFile())
    throw new GodwitError('GODWIT_BAD_STREAM', `${path} is no Godwit snapshot, but no regular file at all`);
  const start = new Uint8Array(Math.min(HEADER_BYTES, stats.size));
  await file.read(start, 0);
  const { metadataOffset, metadataBytes, metadataSha256 } = decodeHeader(start, stats.size, path);
  const metadata = new Uint8Array(metadataBytes);
  await file.read(metadata, metadataOffset);
  if (!sha256(metadata).equals(metadataSha256)) throw damaged(path, 'its metadata does not match its checksum');
  return parseMetadata(metadata, metadataOffset, path);
}

/** Copies `bytes` into chunks, one after the other. */
export function scatter(bytes: Uint8Array, into: readonly Uint8Array[]): void {
  let at = 0;
  for (const chunk of into) {
    chunk.set(bytes.subarray(at, at + chunk.length));
    at += chunk.length;
  }
}

function damaged(path: string, what: string): GodwitError {
  return new GodwitError('GODWIT_BAD_STREAM', `the snapshot ${path} is damaged: ${what}; take another copy of it`);
}

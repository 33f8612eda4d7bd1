import { createHash, type Hash } from 'node:crypto';
import {
  DirtyBitmap,
  type DirtyBitmaps,
  GodwitError,
  type HelloFrame,
  type MovedRunState,
  type ThreadRecipe,
} from '@godwit/core';
import { DIGEST_BYTES } from '@godwit/core/pages';
import { byteCount, digestBytes, eachSegment, holdWholePages, PageDigester, pageCount } from './page-segments.js';
import type { PartialFile } from './partial-file.js';
import type { PositionedFile } from './positioned-file.js';
import { encodeHeader, sha256 } from './snapshot-header.js';
import {
  type BlockIndex,
  blockPages,
  type DevicePiece,
  MOST_PIECES,
  packMetadata,
  placeBlocks,
  type SavedWorkingSet,
} from './snapshot-metadata.js';
import { SNAPSHOT_TARGET, type SnapshotTargetOptions } from './snapshot-target.js';

/** Pieces of device state are joined up to this size, since a device may yield its state byte by byte. */
const PIECE_BYTES = 2 ** 20;

/** Most bytes of device state: two consecutive pieces of a device have more than `PIECE_BYTES` together, or they would be one. */
export const MOST_DEVICE_STATE = (MOST_PIECES * PIECE_BYTES) / 2;

/** The index is gathered, and hashed, in steps of this size: half a millisecond. */
const STEP_BYTES = 2 ** 20;

/** Writes the contents of a snapshot into its file: pages to fixed places, and device state after them. */
export class SnapshotWriter {
  #blocks: readonly BlockIndex[];
  readonly #partial: PartialFile;
  readonly #file: PositionedFile;
  readonly #hello: HelloFrame;
  readonly #offsets: readonly number[];
  readonly #digester: PageDigester;
  readonly #pieces: DevicePiece[] = [];
  #piece: { device: number; offset: number; byteLength: number; hash: Hash } | undefined;
  #workingSet: DirtyBitmaps | undefined;
  /** The offset of the next piece of device state. */
  #end: number;

  constructor(partial: PartialFile, hello: HelloFrame) {
    this.#partial = partial;
    this.#file = partial.file;
    this.#hello = hello;
    this.#digester = new PageDigester(hello.pageSize);
    const { offsets, end } = placeBlocks(hello);
    this.#offsets = offsets;
    this.#end = end;
    // Memory that is all zero takes no room until it is written, so that pages that the guest has never touched take none.
    this.#blocks = blockPages(hello).map((pages) => ({
      present: new DirtyBitmap(pages),
      digests: new Uint32Array(pages * (DIGEST_BYTES / 4)),
    }));
  }

  /** The pages that the file has, and their digests. */
  get blocks(): readonly BlockIndex[] {
    return this.#blocks;
  }

  /**
   * Hands the pages to another thread, before any page was written here: that thread makes the target from the recipe, and writes the same
   * file. Once it has ended, `finish` includes its pages.
   */
  toOtherThread(): ThreadRecipe {
    const { pageSize } = this.#hello;
    const shared = blockPages(this.#hello).map((pageCount, i) => ({
      pageCount,
      present: new SharedArrayBuffer(DirtyBitmap.storageBytes(pageCount)),
      digests: new SharedArrayBuffer(pageCount * DIGEST_BYTES),
      pagesOffset: this.#offsets[i] as number,
    }));
    this.#blocks = shared.map(({ pageCount, present, digests }) => ({
      present: new DirtyBitmap(pageCount, present),
      digests: new Uint32Array(digests),
    }));
    this.#file.writtenElsewhere();
    const options: SnapshotTargetOptions = { path: this.#file.path, fd: this.#file.fd, pageSize, blocks: shared };
    return { ...SNAPSHOT_TARGET, options };
  }

  /** Notes the pages that the guest needs first where it is restored; `finish` writes them. */
  keepWorkingSet(pages: DirtyBitmaps): void {
    this.#workingSet = pages;
  }

  /** Writes pages to their places, over those of earlier rounds. Resolves with the number of bytes. */
  async writePages(block: number, runs: readonly number[], payload: readonly Uint8Array[]): Promise<number> {
    const { pageSize } = this.#hello;
    const { present, digests } = this.#block(block);
    const bytes = byteCount(payload);
    if (bytes !== pageCount(runs) * pageSize) {
      throw new GodwitError(
        'GODWIT_PROTOCOL',
        `a "pages" frame has ${pageCount(runs)} pages of ${pageSize} bytes but a payload of ${bytes} bytes`,
      );
    }
    for (let i = 0; i < runs.length; i += 2) present.setRange(runs[i] as number, runs[i + 1] as number);
    const chunks = holdWholePages(payload, pageSize) ? payload : [joined(payload, bytes)];
    const writes: Promise<void>[] = [];
    eachSegment(runs, pageSize, chunks, (page, chunk, at, length) => {
      writes.push(this.#file.write(chunk.subarray(at, at + length), this.#place(block, page)));
    });
    // Digests are made while the kernel copies. A page that the guest changes meanwhile may get a digest that does not match the file; but
    // that page is dirty, and is sent again.
    eachSegment(runs, pageSize, chunks, (page, chunk, at, length) =>
      this.#digester.digest(chunk, at, length, digests, page * 2),
    );
    await settled(writes);
    return bytes;
  }

  /** Notes that these pages are zero: the file's contents in their places do not count any more. */
  clearPages(block: number, runs: readonly number[]): void {
    const { present } = this.#block(block);
    for (let i = 0; i < runs.length; i += 2) present.clearRange(runs[i] as number, runs[i + 1] as number);
  }

  /** Appends to a device's state. Resolves with the number of bytes. */
  async writeDevice(device: number, payload: readonly Uint8Array[]): Promise<number> {
    const writes: Promise<void>[] = [];
    for (const chunk of payload) {
      if (chunk.length === 0) continue;
      const piece = this.#pieceFor(device, chunk.length);
      writes.push(this.#file.write(chunk, this.#end));
      piece.hash.update(chunk);
      piece.byteLength += chunk.length;
      this.#end += chunk.length;
    }
    await settled(writes);
    return byteCount(payload);
  }

  /** Resolves when everything written so far is on the disk. */
  sync(): Promise<void> {
    return this.#file.sync();
  }

  /** Fills `into` with the file's contents of these pages. */
  async readBack(block: number, firstPage: number, into: Uint8Array): Promise<void> {
    await this.#file.read(into, this.#place(block, firstPage));
  }

  /**
   * Makes the file whole and durable: index, metadata, header, fsync. Everything that can fail for want of room or of a working disk has
   * been done when the promise resolves; only the final name is missing. `runState` is the guest's state after a restore.
   */
  async finish(runState: MovedRunState): Promise<void> {
    this.#closePiece();
    const workingSet = await this.#writeWorkingSet();
    const indexOffset = this.#end;
    const { indexSha256, bitmapsSha256, end } = await this.#writeIndex(indexOffset);
    const metadata = packMetadata({
      hello: this.#hello,
      blockOffsets: this.#offsets,
      presentPages: this.blocks.map(({ present }) => present.count()),
      indexOffset,
      indexSha256,
      pieces: this.#pieces,
      runState,
      bitmapsSha256,
      workingSet,
    });
    const header = { metadataOffset: end, metadataBytes: metadata.length, metadataSha256: sha256(metadata) };
    // Both are written at once, with one flush for all: a reader checks the metadata against the checksum in the header, so that their
    // order on the disk does not matter.
    await settled([this.#file.write(metadata, end), this.#file.write(encodeHeader(header), 0)]);
    await settled([this.#file.sync(), this.#partial.mustBeThere()]);
  }

  async #writeWorkingSet(): Promise<SavedWorkingSet | undefined> {
    if (this.#workingSet === undefined) return undefined;
    const hash = createHash('sha256');
    const offset = this.#end;
    for (const bitmap of this.#workingSet.blocks) {
      const words = new Uint32Array(DirtyBitmap.storageBytes(bitmap.pageCount) / 4);
      bitmap.copyWords(0, words);
      this.#end = await this.#append(new Uint8Array(words.buffer), this.#end, hash);
    }
    return { offset, sha256: hash.digest() };
  }

  async #writeIndex(
    indexOffset: number,
  ): Promise<{ readonly indexSha256: Uint8Array; readonly bitmapsSha256: Uint8Array; readonly end: number }> {
    const hash = createHash('sha256');
    const bitmaps = createHash('sha256');
    let end = indexOffset;
    for (const { present, digests } of this.blocks) {
      // Bitmaps that other threads have written are copied: the hash must not be made of shared memory.
      const bytes = present.bytes.slice();
      end = await this.#append(bytes, end, hash);
      bitmaps.update(bytes);
      const packed = new Uint32Array(STEP_BYTES / 4);
      let used = 0;
      for (let page = present.nextDirty(0); page !== -1; ) {
        const stop = Math.min(present.nextClean(page), page + (packed.length - used) / 2);
        packed.set(digests.subarray(page * 2, stop * 2), used);
        used += (stop - page) * 2;
        page = present.nextDirty(stop);
        if (used < packed.length && page !== -1) continue;
        end = await this.#append(digestBytes(packed, 0, used / 2), end, hash);
        used = 0;
      }
    }
    return { indexSha256: hash.digest(), bitmapsSha256: bitmaps.digest(), end };
  }

  async #append(bytes: Uint8Array, offset: number, hash: Hash): Promise<number> {
    for (let at = 0; at < bytes.length; at += STEP_BYTES) {
      const step = bytes.subarray(at, at + STEP_BYTES);
      const writing = this.#file.write(step, offset + at);
      hash.update(step);
      await writing;
    }
    return offset + bytes.length;
  }

  #pieceFor(device: number, bytes: number) {
    if (this.#piece?.device !== device || this.#piece.byteLength + bytes > PIECE_BYTES) {
      this.#closePiece();
      this.#piece = { device, offset: this.#end, byteLength: 0, hash: createHash('sha256') };
    }
    return this.#piece;
  }

  #closePiece(): void {
    if (this.#piece === undefined) return;
    const { hash, ...piece } = this.#piece;
    this.#pieces.push({ ...piece, sha256: hash.digest() });
    this.#piece = undefined;
  }

  #block(index: number): BlockIndex {
    const block = this.blocks[index];
    if (block !== undefined) return block;
    throw new GodwitError('GODWIT_OUT_OF_RANGE', `there is no RAM block ${index}; there are ${this.blocks.length}`);
  }

  #place(block: number, page: number): number {
    return (this.#offsets[block] as number) + page * this.#hello.pageSize;
  }
}

/** Awaits all writes, even when one fails: until then the memory is borrowed. */
async function settled(writes: readonly Promise<void>[]): Promise<void> {
  for (const result of await Promise.allSettled(writes)) if (result.status === 'rejected') throw result.reason;
}

function joined(chunks: readonly Uint8Array[], bytes: number): Uint8Array {
  const whole = new Uint8Array(bytes);
  let at = 0;
  for (const chunk of chunks) {
    whole.set(chunk, at);
    at += chunk.length;
  }
  return whole;
}

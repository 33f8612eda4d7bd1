import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { DirtyBitmap, GodwitError } from '@godwit/core';
import { DIGEST_BYTES } from '@godwit/core/pages';
import { digestBytes, pageCount } from './page-segments.js';
import { PositionedFile } from './positioned-file.js';
import { decodeHeader, HEADER_BYTES, MAGIC } from './snapshot-header.js';
import {
  bitmapBytes,
  blockPages,
  indexBytes,
  type SavedWorkingSet,
  type SnapshotMetadata,
} from './snapshot-metadata.js';
import { type SnapshotBatch, SnapshotReader } from './snapshot-reader.js';

/** Bytes of pages that are read and checked at once; pages larger than this are read one by one. */
const BATCH_BYTES = 2 ** 20;

/** Pages whose bits are in memory at once: 1 MiB of bitmap, for 32 GiB of pages of 4 KiB. */
const WINDOW_PAGES = 2 ** 23;

/** The index is hashed in steps of this size. */
const STEP_BYTES = 2 ** 20;

/** The largest page that is read: no guest has larger ones. */
const MOST_PAGE_BYTES = 2 ** 30;

/** An item of a check of a snapshot: first the snapshot's parts, then its damages. */
export type SnapshotItem =
  | {
      readonly type: 'metadata';
      readonly metadata: SnapshotMetadata;
      readonly fileBytes: number;
      readonly offset: number;
    }
  /** A part does not match its checksum. `fatal`: nothing after this part can be trusted, and this is the last item. */
  | { readonly type: 'damage'; readonly offset: number; readonly error: GodwitError; readonly fatal: boolean };

/**
 * Whether a file that starts with these bytes (16 or more) is a snapshot, or a snapshot that was never finished.
 *
 * @example
 * const { buffer, bytesRead } = await file.read(new Uint8Array(16), 0, 16, 0);
 * const isSnapshot = looksLikeSnapshot(buffer.subarray(0, bytesRead));
 */
export function looksLikeSnapshot(start: Uint8Array): boolean {
  if (start.length < MAGIC.length) return false;
  const head = start.subarray(0, MAGIC.length);
  return head.every((byte, i) => byte === MAGIC[i]) || head.every((byte) => byte === 0);
}

/**
 * Reads a whole snapshot and compares every page, every piece of device state and the index with its checksum. A damaged
 * file never makes it throw: each damage is an item, with the offset of the damaged part. Memory is bounded whatever the
 * size of the guest (a few MiB, or a page and the metadata, where those are larger). Errors of opening the file are
 * thrown with the system's message.
 *
 * @example
 * for await (const item of checkSnapshot('vm.snapshot')) {
 *   if (item.type === 'damage') console.error(item.offset, item.error.message);
 * }
 */
export async function* checkSnapshot(path: string): AsyncGenerator<SnapshotItem, void, undefined> {
  // Without O_NONBLOCK the open of a pipe would wait for its other end.
  const file = await PositionedFile.open(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
  let reader: SnapshotReader | undefined;
  let offset = 0;
  try {
    const fileBytes = (await file.stat()).size;
    const start = new Uint8Array(Math.min(HEADER_BYTES, fileBytes));
    await file.read(start, 0);
    offset = decodeHeader(start, fileBytes, path).metadataOffset;
    reader = await SnapshotReader.open(path);
    const { metadata } = reader;
    yield { type: 'metadata', metadata, fileBytes, offset };
    offset = metadata.indexOffset;
    yield* checkWorkingSet(reader);
    await checkIndexHash(file, metadata);
    yield* checkPages(file, reader);
    yield* checkPieces(reader);
  } catch (error) {
    yield { type: 'damage', offset, error: asDamage(error), fatal: true };
  } finally {
    await reader?.close();
    await file.close();
  }
}

/** A guest can do without its working set, so that a damaged one leaves the rest worth checking. */
async function* checkWorkingSet(reader: SnapshotReader): AsyncGenerator<SnapshotItem> {
  try {
    await reader.readWorkingSet();
  } catch (error) {
    const { offset } = reader.metadata.workingSet as SavedWorkingSet;
    yield { type: 'damage', offset, error: asDamage(error), fatal: false };
  }
}

async function checkIndexHash(file: PositionedFile, metadata: SnapshotMetadata): Promise<void> {
  const hash = createHash('sha256');
  const step = new Uint8Array(STEP_BYTES);
  const bytes = indexBytes(metadata);
  for (let at = 0; at < bytes; at += STEP_BYTES) {
    const part = step.subarray(0, Math.min(STEP_BYTES, bytes - at));
    await file.read(part, metadata.indexOffset + at);
    hash.update(part);
  }
  if (!hash.digest().equals(metadata.indexSha256)) {
    throw new GodwitError('GODWIT_BAD_STREAM', 'the index of its pages does not match its checksum');
  }
}

async function* checkPages(file: PositionedFile, reader: SnapshotReader): AsyncGenerator<SnapshotItem> {
  const { metadata } = reader;
  const { pageSize, blocks } = metadata.hello;
  if (pageSize > MOST_PAGE_BYTES) {
    const error = new GodwitError('GODWIT_LIMIT_EXCEEDED', `pages of ${pageSize} bytes are not checked`);
    yield { type: 'damage', offset: metadata.blockOffsets[0] ?? 0, error, fatal: true };
    return;
  }
  const buffer = new Uint8Array(Math.max(BATCH_BYTES, pageSize));
  let bitmapAt = metadata.indexOffset;
  for (const [block, pages] of blockPages(metadata.hello).entries()) {
    const present = metadata.presentPages[block] as number;
    const digestsAt = bitmapAt + bitmapBytes(pages);
    let nth = 0;
    for await (const runs of presentRuns(file, bitmapAt, pages, buffer.length / pageSize)) {
      const count = pageCount(runs);
      if (nth + count <= present) {
        yield* checkBatch(
          file,
          reader,
          { block, runs, pages: count, firstDigest: 0 },
          digestsAt + nth * DIGEST_BYTES,
          buffer,
        );
      }
      nth += count;
    }
    if (nth !== present) {
      const message = `RAM block "${blocks[block]?.id}" has ${nth} pages in its bitmap and ${present} in the metadata`;
      yield { type: 'damage', offset: bitmapAt, error: new GodwitError('GODWIT_BAD_STREAM', message), fatal: false };
    }
    bitmapAt = digestsAt + present * DIGEST_BYTES;
  }
}

/** The runs of present pages of a block, at most `most` pages at a time. */
async function* presentRuns(
  file: PositionedFile,
  bitmapAt: number,
  pages: number,
  most: number,
): AsyncGenerator<number[]> {
  for (let window = 0; window < pages; window += WINDOW_PAGES) {
    const bits = new DirtyBitmap(Math.min(WINDOW_PAGES, pages - window));
    await file.read(bits.bytes, bitmapAt + window / 8);
    bits.maskTail();
    let runs: number[] = [];
    let left = most;
    for (let page = bits.nextDirty(0); page !== -1; ) {
      const stop = Math.min(bits.nextClean(page), page + left);
      runs.push(window + page, stop - page);
      left -= stop - page;
      page = stop < bits.pageCount ? bits.nextDirty(stop) : -1;
      if (left > 0 && page !== -1) continue;
      yield runs;
      runs = [];
      left = most;
    }
  }
}

/** Checks pages together, and one by one when any of them is damaged. */
async function* checkBatch(
  file: PositionedFile,
  reader: SnapshotReader,
  batch: SnapshotBatch,
  digestsAt: number,
  buffer: Uint8Array,
): AsyncGenerator<SnapshotItem> {
  const { pageSize } = reader.metadata.hello;
  const digests = new Uint32Array(batch.pages * 2);
  await file.read(digestBytes(digests, 0, batch.pages), digestsAt);
  const index = { present: new DirtyBitmap(0), digests };
  try {
    await reader.readPages(batch, index, [buffer.subarray(0, batch.pages * pageSize)]);
    return;
  } catch (error) {
    if (batch.pages === 1) {
      const offset = (reader.metadata.blockOffsets[batch.block] as number) + (batch.runs[0] as number) * pageSize;
      yield { type: 'damage', offset, error: asDamage(error), fatal: false };
      return;
    }
  }
  let nth = 0;
  for (let i = 0; i < batch.runs.length; i += 2) {
    for (let page = 0; page < (batch.runs[i + 1] as number); page++) {
      const one = { block: batch.block, runs: [(batch.runs[i] as number) + page, 1], pages: 1, firstDigest: 0 };
      yield* checkBatch(file, reader, one, digestsAt + nth * DIGEST_BYTES, buffer);
      nth++;
    }
  }
}

async function* checkPieces(reader: SnapshotReader): AsyncGenerator<SnapshotItem> {
  for (const piece of reader.metadata.pieces) {
    try {
      await reader.readPiece(piece, [new Uint8Array(piece.byteLength)]);
    } catch (error) {
      yield { type: 'damage', offset: piece.offset, error: asDamage(error), fatal: false };
    }
  }
}

function asDamage(error: unknown): GodwitError {
  return GodwitError.wrap(error, 'GODWIT_BAD_STREAM', 'the snapshot cannot be read');
}

import { type DirtyBitmap, GodwitError, type HelloFrame, MOVED_RUN_STATES, type MovedRunState } from '@godwit/core';
import { FieldReader } from '../framing/field-reader.js';
import { packHeader, parseHeader } from '../framing/frame-codec.js';
import { DEFAULT_FRAME_LIMITS } from '../framing/frame-limits.js';
import { packHeaderFields, unpackHeaderFields } from '../framing/header-fields.js';
import { integer, integers } from '../framing/portable-value.js';
import { HEADER_BYTES, SHA256_BYTES } from './snapshot-header.js';

/** The pages of a block start at a multiple of this, and of the page size. */
const BLOCK_ALIGNMENT = 2 ** 20;

/** Most bytes in one piece of device state: it is checked as a whole before a device sees any of it. */
export const MOST_PIECE_BYTES = 4 * 2 ** 20;

/** Device pieces in one snapshot. */
export const MOST_PIECES = 2 ** 18;

/** A piece of a device's state. A device's state is the concatenation of its pieces in the order of the list. */
export interface DevicePiece {
  /** Index into the hello's devices. */
  readonly device: number;
  readonly offset: number;
  readonly byteLength: number;
  readonly sha256: Uint8Array;
}

/** The metadata of a snapshot. */
export interface SnapshotMetadata {
  readonly hello: HelloFrame;
  /** Offset of page 0 of each block. */
  readonly blockOffsets: readonly number[];
  /** Pages of each block that the snapshot holds; all others are zero. */
  readonly presentPages: readonly number[];
  /** For each block its bitmap of present pages, then the digests of those pages. */
  readonly indexOffset: number;
  readonly indexSha256: Uint8Array;
  readonly pieces: readonly DevicePiece[];
  /** The guest's state before it was paused for the snapshot, which it has again after a restore. */
  readonly runState: MovedRunState;
  /**
   * The checksum of the bitmaps of all blocks, one after the other; undefined in snapshots of older versions, which have
   * none.
   */
  readonly bitmapsSha256?: Uint8Array | undefined;
  /** The bitmaps of the pages that the guest needs first, of all blocks, one after the other; undefined where that is not known. */
  readonly workingSet?: SavedWorkingSet | undefined;
}

/** The place of a working set, and its checksum. It has as many bytes as the bitmaps of present pages. */
export interface SavedWorkingSet {
  readonly offset: number;
  readonly sha256: Uint8Array;
}

/** Pages of each block of a hello. */
export function blockPages(hello: HelloFrame): number[] {
  return hello.blocks.map(({ byteLength }) => byteLength / hello.pageSize);
}

/** The fixed offsets of all blocks, and the end of the last one. */
export function placeBlocks(hello: HelloFrame): { readonly offsets: number[]; readonly end: number } {
  const unit = Math.max(BLOCK_ALIGNMENT, hello.pageSize);
  let end = HEADER_BYTES;
  const offsets = hello.blocks.map(({ byteLength }) => {
    const offset = Math.ceil(end / unit) * unit;
    end = offset + byteLength;
    return offset;
  });
  return { offsets, end };
}

/** Bytes of a block's bitmap in the file: whole 64-bit words. */
export function bitmapBytes(pages: number): number {
  return Math.ceil(pages / 64) * 8;
}

/** Bytes of the index: 1 bit for every page and 8 bytes for every present one. */
export function indexBytes({ hello, presentPages }: Pick<SnapshotMetadata, 'hello' | 'presentPages'>): number {
  return blockPages(hello).reduce((sum, pages, i) => sum + bitmapBytes(pages) + (presentPages[i] as number) * 8, 0);
}

/** Bytes of the bitmaps of all blocks. */
function allBitmapBytes(hello: HelloFrame): number {
  return blockPages(hello).reduce((sum, pages) => sum + bitmapBytes(pages), 0);
}

export function packMetadata(metadata: SnapshotMetadata): Uint8Array {
  const { hello, blockOffsets, presentPages, indexOffset, indexSha256, pieces, runState, bitmapsSha256, workingSet } =
    metadata;
  if (pieces.length > MOST_PIECES) {
    throw new GodwitError(
      'GODWIT_LIMIT_EXCEEDED',
      `the devices gave ${pieces.length} pieces of state; a snapshot holds at most ${MOST_PIECES}`,
    );
  }
  return packHeaderFields([
    packHeader(hello),
    integers(blockOffsets),
    integers(presentPages),
    integer(indexOffset),
    indexSha256,
    pieces.map((piece) => [piece.device, integer(piece.offset), piece.byteLength, piece.sha256]),
    runState,
    ...(bitmapsSha256 === undefined ? [] : [bitmapsSha256]),
    ...(workingSet === undefined ? [] : [integer(workingSet.offset), workingSet.sha256]),
  ]);
}

/**
 * Reads metadata whose checksum is right: its author may still be hostile. Every place must lie in the file, after the
 * one before it and before `metadataOffset`, so that nothing is ever read or allocated beyond the file.
 */
export function parseMetadata(bytes: Uint8Array, metadataOffset: number, path: string): SnapshotMetadata {
  try {
    return parse(bytes, metadataOffset);
  } catch (error) {
    const { code, message } = GodwitError.wrap(error, 'GODWIT_BAD_STREAM', 'it cannot be decoded');
    throw new GodwitError(code, `the metadata of the snapshot ${path} makes no sense: ${message}`, { cause: error });
  }
}

function parse(bytes: Uint8Array, metadataOffset: number): SnapshotMetadata {
  const fields = new FieldReader('metadata', unpackHeaderFields(bytes), 0);
  const header = fields.any();
  const hello =
    header instanceof Uint8Array ? parseHeader(header, DEFAULT_FRAME_LIMITS) : ({ type: 'nothing' } as const);
  if (hello.type !== 'hello') throw wrong(`a hello should be first, found "${hello.type}"`);
  const blocks = hello.blocks.length;
  const blockOffsets = fields.list('blockOffsets', blocks, (offset) => offset.uint('offset'));
  const presentPages = fields.list('presentPages', blocks, (count) => count.uint('count'));
  const indexOffset = fields.uint('indexOffset');
  const indexSha256 = checksum(fields.any());
  const pieces = fields.list('pieces', MOST_PIECES, (piece) => ({
    device: piece.uint('device', hello.devices.length - 1),
    offset: piece.uint('offset'),
    byteLength: piece.uint('byteLength', MOST_PIECE_BYTES),
    sha256: checksum(piece.any()),
  }));
  // Snapshots from before run states existed are of guests that ran.
  const runState = fields.ended ? 'running' : fields.oneOf('runState', MOVED_RUN_STATES);
  const bitmapsSha256 = fields.ended ? undefined : checksum(fields.any());
  const workingSet = fields.ended
    ? undefined
    : { offset: fields.uint('workingSetOffset'), sha256: checksum(fields.any()) };
  const places = { blockOffsets, presentPages, indexOffset, pieces };
  const metadata = { hello, ...places, indexSha256, runState, bitmapsSha256, workingSet };
  checkPlaces(metadata, metadataOffset);
  return metadata;
}

function checkPlaces(metadata: SnapshotMetadata, metadataOffset: number): void {
  const { hello, blockOffsets, presentPages, indexOffset, pieces, workingSet } = metadata;
  if (!Number.isInteger(Math.log2(hello.pageSize))) throw wrong(`pages of ${hello.pageSize} bytes`);
  if (blockOffsets.length !== hello.blocks.length || presentPages.length !== hello.blocks.length) {
    throw wrong(`${hello.blocks.length} blocks, but ${blockOffsets.length} places and ${presentPages.length} counts`);
  }
  let end = HEADER_BYTES;
  const place = (what: string, offset: number, byteLength: number): void => {
    if (!(offset >= end && Number.isSafeInteger(offset + byteLength) && offset + byteLength <= metadataOffset)) {
      throw wrong(`${what} at ${offset} + ${byteLength} is not between ${end} and ${metadataOffset}`);
    }
    end = offset + byteLength;
  };
  const pages = blockPages(hello);
  for (const [i, { id, byteLength }] of hello.blocks.entries()) {
    const count = pages[i] as number;
    if (!Number.isInteger(count) || (presentPages[i] as number) > count) {
      throw wrong(`${presentPages[i]} pages in RAM block "${id}" of ${byteLength} bytes`);
    }
    const offset = blockOffsets[i] as number;
    place(`RAM block "${id}"`, offset, byteLength);
    if (offset % hello.pageSize !== 0) throw wrong(`the pages of RAM block "${id}" start at ${offset}`);
  }
  for (const [i, { offset, byteLength }] of pieces.entries()) place(`device piece ${i}`, offset, byteLength);
  if (workingSet !== undefined) place('the working set', workingSet.offset, allBitmapBytes(hello));
  place('the index', indexOffset, indexBytes(metadata));
  if (end !== metadataOffset) throw wrong(`the index ends at ${end}, the metadata starts at ${metadataOffset}`);
}

function checksum(value: unknown): Uint8Array {
  if (value instanceof Uint8Array && value.length === SHA256_BYTES) return value;
  throw wrong('a checksum is no 32 bytes');
}

function wrong(message: string): GodwitError {
  return new GodwitError('GODWIT_BAD_STREAM', message);
}

/** The pages of a block that a snapshot has, and their digests. */
export interface BlockIndex {
  readonly present: DirtyBitmap;
  /** Two words for each present page, in the order of the pages. */
  readonly digests: Uint32Array;
}

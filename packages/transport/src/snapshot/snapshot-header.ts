import { createHash } from 'node:crypto';
import { GodwitError } from '@godwit/core';

/** The file's first bytes, readable by `head -c 16`. */
export const MAGIC: Uint8Array = Buffer.from('godwit snapshot\n', 'latin1');

/** Version of the file format; `docs/snapshot-format.md` describes this one. */
const VERSION = 1;

/** Bytes of the header, at the beginning of the file. */
export const HEADER_BYTES = 4096;

/** Most bytes of metadata: the hello of 4096 blocks and devices, and the list of a quarter million device pieces. */
const MOST_METADATA = 16 * 2 ** 20;

/** The number of bytes that the checksum at the header's end covers. */
const CHECKED_BYTES = 80;

export const SHA256_BYTES = 32;

/** The place, the size and the checksum of the metadata. */
export interface SnapshotHeader {
  readonly metadataOffset: number;
  readonly metadataBytes: number;
  readonly metadataSha256: Uint8Array;
}

/** Encodes the header, which is written into a snapshot last. The metadata is at the end of the file. */
export function encodeHeader(header: SnapshotHeader): Uint8Array {
  const bytes = Buffer.alloc(HEADER_BYTES);
  bytes.set(MAGIC, 0);
  bytes.writeUInt32BE(VERSION, 16);
  bytes.writeBigUInt64BE(BigInt(header.metadataOffset + header.metadataBytes), 24);
  bytes.writeBigUInt64BE(BigInt(header.metadataOffset), 32);
  bytes.writeBigUInt64BE(BigInt(header.metadataBytes), 40);
  bytes.set(header.metadataSha256, 48);
  bytes.set(sha256(bytes.subarray(0, CHECKED_BYTES)), CHECKED_BYTES);
  return bytes;
}

/** Reads the start of a file of `fileBytes` bytes, and refuses a file that is no whole snapshot of a known version. */
export function decodeHeader(start: Uint8Array, fileBytes: number, path: string): SnapshotHeader {
  const bytes = Buffer.from(start.buffer, start.byteOffset, start.byteLength);
  if (bytes.length < CHECKED_BYTES + SHA256_BYTES || !bytes.subarray(0, MAGIC.length).equals(MAGIC)) {
    const unfinished = bytes.length > 0 && bytes.subarray(0, MAGIC.length).every((byte) => byte === 0);
    throw bad(
      unfinished
        ? `${path} is no whole snapshot: saving was interrupted before its end`
        : `${path} is no Godwit snapshot: it does not start with "${MAGIC.toString().trim()}"`,
    );
  }
  const version = bytes.readUInt32BE(16);
  if (version !== VERSION) {
    throw new GodwitError(
      'GODWIT_VERSION_MISMATCH',
      `${path} is a snapshot of format ${version}; this version of Godwit reads format ${VERSION} only`,
    );
  }
  if (!sha256(bytes.subarray(0, CHECKED_BYTES)).equals(bytes.subarray(CHECKED_BYTES, CHECKED_BYTES + SHA256_BYTES))) {
    throw bad(`the header of ${path} does not match its checksum: the file is damaged`);
  }
  const total = Number(bytes.readBigUInt64BE(24));
  const metadataOffset = Number(bytes.readBigUInt64BE(32));
  const metadataBytes = Number(bytes.readBigUInt64BE(40));
  if (total !== fileBytes) {
    throw bad(
      `${path} has ${fileBytes} bytes, but was ${total} bytes long when it was saved: it was truncated, or something was appended`,
    );
  }
  if (metadataBytes > MOST_METADATA) {
    throw new GodwitError(
      'GODWIT_LIMIT_EXCEEDED',
      `${path} announces ${metadataBytes} bytes of metadata; there are at most ${MOST_METADATA}`,
    );
  }
  if (!Number.isSafeInteger(total) || metadataOffset < HEADER_BYTES || metadataOffset + metadataBytes !== total) {
    throw bad(
      `the header of ${path} makes no sense: metadata at ${metadataOffset} + ${metadataBytes} of ${total} bytes`,
    );
  }
  return { metadataOffset, metadataBytes, metadataSha256: Uint8Array.from(bytes.subarray(48, 48 + SHA256_BYTES)) };
}

export function sha256(bytes: Uint8Array): Buffer {
  return createHash('sha256').update(bytes).digest();
}

function bad(message: string): GodwitError {
  return new GodwitError('GODWIT_BAD_STREAM', message);
}

import { CHECKSUM_BYTES, checksumObject, crc32 } from './checksum.js';

/** Bytes of a length on the wire. */
const PREFIX = 5;

/**
 * The bytes of a frame up to the contents of its payload: the header's length, the header and, for a type with a payload,
 * the start of the `bin 32`. `payloadBytes` is `undefined` for a type without.
 */
export function frameHead(header: Uint8Array, payloadBytes: number | undefined): Uint8Array {
  const head = new Uint8Array(header.length + (payloadBytes === undefined ? 5 : 10));
  putLength(head, 0, 0xce, header.length);
  head.set(header, 5);
  if (payloadBytes !== undefined) putLength(head, header.length + 5, 0xc6, payloadBytes);
  return head;
}

/**
 * Does the same with checksums: one after the header's length, and one after the header that also covers the start of the
 * payload. `before` is the checksum of everything before this frame, `sum` that of everything up to the end of the head.
 */
export function checkedHead(
  header: Uint8Array,
  payloadBytes: number | undefined,
  before: number,
): { readonly bytes: Uint8Array; readonly sum: number } {
  const head = frameHead(header, payloadBytes);
  const end = PREFIX + header.length;
  const first = crc32(head.subarray(0, PREFIX), before);
  const sum = crc32(head.subarray(PREFIX), first);
  const bytes = new Uint8Array(head.length + 2 * CHECKSUM_BYTES);
  bytes.set(head.subarray(0, PREFIX));
  bytes.set(checksumObject(first), PREFIX);
  bytes.set(head.subarray(PREFIX, end), PREFIX + CHECKSUM_BYTES);
  bytes.set(checksumObject(sum), end + CHECKSUM_BYTES);
  bytes.set(head.subarray(end), end + 2 * CHECKSUM_BYTES);
  return { bytes, sum };
}

function putLength(bytes: Uint8Array, at: number, type: number, length: number): void {
  bytes[at] = type;
  bytes[at + 1] = length >>> 24;
  bytes[at + 2] = (length >>> 16) & 0xff;
  bytes[at + 3] = (length >>> 8) & 0xff;
  bytes[at + 4] = length & 0xff;
}

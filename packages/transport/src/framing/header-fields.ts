import { GodwitError } from '@godwit/core/errors';
import { Packr, Unpackr } from 'msgpackr';
import { guardHeader } from './header-guard.js';

// Plain MessagePack: no record extension, maps for objects, bytes copied out of the reader's buffer, and 64-bit
// integers as numbers wherever they are exact. msgpackr accepts 'auto' but does not declare it.
const PLAIN = { useRecords: false, mapsAsObjects: true, variableMapSize: true, copyBuffers: true, moreTypes: false };
const packr = new Packr(PLAIN);
const unpackr = new Unpackr({ ...PLAIN, int64AsType: 'auto' } as unknown as ConstructorParameters<typeof Unpackr>[0]);

/** A header as bytes: one MessagePack array of the type number and the fields. */
export function packHeaderFields(fields: readonly unknown[]): Uint8Array {
  return packr.pack(fields);
}

/**
 * The type number and the fields of a header. Fails with `GODWIT_BAD_STREAM` when the header is no plain MessagePack
 * array.
 */
export function unpackHeaderFields(bytes: Uint8Array): readonly unknown[] {
  guardHeader(bytes);
  let header: unknown;
  try {
    header = unpackr.unpack(bytes);
  } catch (error) {
    throw GodwitError.wrap(error, 'GODWIT_BAD_STREAM', 'a frame header cannot be decoded');
  }
  if (!Array.isArray(header)) throw new GodwitError('GODWIT_BAD_STREAM', 'a frame header is not an array');
  return header;
}

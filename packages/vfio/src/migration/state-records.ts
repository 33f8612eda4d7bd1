import { GodwitError } from '@godwit/core';

/**
 * The records that follow the header of a device's state, little-endian, to the end.
 *
 * ```
 * 0  u32    what it is: 1 bytes of the device, 2 "from the beginning"
 * 4  u32    bytes that follow
 * 8         what the device's data descriptor gave: opaque, in order, in pieces of any size
 * ```
 *
 * "From the beginning" (no bytes follow): the guest has reset its device, and all earlier records are void. Another session of
 * the device follows, from its first byte.
 */
export const RECORD_BYTES = 8;

export const RecordKind = { DATA: 1, FROM_THE_BEGINNING: 2 } as const;

/** Writes the head of a record into the first bytes of `into`. */
export function writeRecordHead(into: Uint8Array, kind: number, byteLength: number): void {
  const view = new DataView(into.buffer, into.byteOffset, RECORD_BYTES);
  view.setUint32(0, kind, true);
  view.setUint32(4, byteLength, true);
}

/** The record that makes all earlier ones void. */
export function fromTheBeginning(): Uint8Array {
  const record = new Uint8Array(RECORD_BYTES);
  writeRecordHead(record, RecordKind.FROM_THE_BEGINNING, 0);
  return record;
}

/** Parses records whose bytes come in chunks that may be cut anywhere. */
export class RecordReader {
  readonly #head = new Uint8Array(RECORD_BYTES);
  #headBytes = 0;
  /** Bytes of the record that are still to come. */
  #left = 0;

  /** Whether the stream may end here, with no incomplete record. */
  get whole(): boolean {
    return this.#headBytes === 0 && this.#left === 0;
  }

  /**
   * Yields the device's bytes in `chunk`, as parts of it, and 'from the beginning' where the state begins anew.
   *
   * @throws GodwitError GODWIT_BAD_STREAM for bytes that are no record
   */
  *take(chunk: Uint8Array): Generator<Uint8Array | 'from the beginning'> {
    for (let at = 0; at < chunk.byteLength; ) {
      if (this.#left > 0) {
        const part = chunk.subarray(at, at + this.#left);
        at += part.byteLength;
        this.#left -= part.byteLength;
        yield part;
        continue;
      }
      const part = chunk.subarray(at, at + RECORD_BYTES - this.#headBytes);
      this.#head.set(part, this.#headBytes);
      this.#headBytes += part.byteLength;
      at += part.byteLength;
      if (this.#headBytes < RECORD_BYTES) return;
      this.#headBytes = 0;
      if (this.#begin()) yield 'from the beginning';
    }
  }

  /** Whether the state begins anew with this record. */
  #begin(): boolean {
    const view = new DataView(this.#head.buffer);
    const [kind, byteLength] = [view.getUint32(0, true), view.getUint32(4, true)];
    if (kind === RecordKind.DATA) {
      this.#left = byteLength;
      return false;
    }
    if (kind === RecordKind.FROM_THE_BEGINNING && byteLength === 0) return true;
    throw new GodwitError(
      'GODWIT_BAD_STREAM',
      `the state has a record of kind ${kind} with ${byteLength} bytes; this version of Godwit knows none such`,
    );
  }
}

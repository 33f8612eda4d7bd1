import { GodwitError } from '@godwit/core';

/**
 * The header of a device's state, version 2, little-endian:
 *
 * ```
 * 0  u8[4]  "GVFS"
 * 4  u16    version of this header
 * 6  u16    length of the kind
 * 8         the kind, UTF-8: `mdev:mtty-2`
 * ```
 *
 * Then records, to the end: see state-records.ts.
 */
export const STATE_VERSION = 2;

const MAGIC = new TextEncoder().encode('GVFS');
const FIXED_BYTES = 8;
const MOST_KIND_BYTES = 256;

export function stateHeader(kind: string): Uint8Array {
  const name = new TextEncoder().encode(kind);
  if (name.byteLength === 0 || name.byteLength > MOST_KIND_BYTES) {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `a kind of device has 1 to ${MOST_KIND_BYTES} bytes, got "${kind}"`,
    );
  }
  const header = new Uint8Array(FIXED_BYTES + name.byteLength);
  header.set(MAGIC);
  const view = new DataView(header.buffer);
  view.setUint16(4, STATE_VERSION, true);
  view.setUint16(6, name.byteLength, true);
  header.set(name, FIXED_BYTES);
  return header;
}

/** Takes the header off a stream of chunks that may be cut anywhere, and checks it. */
export class StateHeaderReader {
  readonly #kind: string;
  #held = new Uint8Array();
  #done = false;

  /** @param kind the kind of this end's device */
  constructor(kind: string) {
    this.#kind = kind;
  }

  get done(): boolean {
    return this.#done;
  }

  /**
   * The part of `chunk` that lies behind the header; empty as long as the header is not complete.
   *
   * @throws GodwitError GODWIT_BAD_STREAM when the bytes are no header, GODWIT_VERSION_MISMATCH, GODWIT_DEVICE_MISMATCH
   */
  take(chunk: Uint8Array): Uint8Array {
    if (this.#done) return chunk;
    const held = new Uint8Array(this.#held.byteLength + chunk.byteLength);
    held.set(this.#held);
    held.set(chunk, this.#held.byteLength);
    this.#held = held;
    for (let i = 0; i < Math.min(MAGIC.byteLength, held.byteLength); i++) {
      if (held[i] !== MAGIC[i]) throw new GodwitError('GODWIT_BAD_STREAM', 'this is no state of a VFIO device');
    }
    if (held.byteLength < FIXED_BYTES) return new Uint8Array();
    const view = new DataView(held.buffer);
    const version = view.getUint16(4, true);
    if (version !== STATE_VERSION) {
      throw new GodwitError(
        'GODWIT_VERSION_MISMATCH',
        `the device's state has version ${version}; this end reads ${STATE_VERSION}`,
      );
    }
    const length = view.getUint16(6, true);
    if (length > MOST_KIND_BYTES) {
      throw new GodwitError(
        'GODWIT_BAD_STREAM',
        `a kind of device has ${length} bytes; ${MOST_KIND_BYTES} are allowed`,
      );
    }
    if (held.byteLength < FIXED_BYTES + length) return new Uint8Array();
    const kind = new TextDecoder().decode(held.subarray(FIXED_BYTES, FIXED_BYTES + length));
    if (kind !== this.#kind) {
      throw new GodwitError(
        'GODWIT_DEVICE_MISMATCH',
        `the state is that of a device of kind "${kind}", this is one of kind "${this.#kind}"`,
      );
    }
    this.#done = true;
    return held.subarray(FIXED_BYTES + length);
  }
}

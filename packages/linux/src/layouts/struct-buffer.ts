import { GodwitError } from '@godwit/core/errors';
import type { StructLayout } from './kernel-layout.js';

const TWO_32 = 2 ** 32;

/**
 * The bytes of one C struct, written and read by field name; `bytes` goes to the kernel as it is. Little-endian.
 *
 * @example
 * const request = new StructBuffer(layout).set('size', 16).set('flags', 1);
 * tryIoctl(fd, number, request.bytes);
 */
export class StructBuffer<Field extends string> {
  readonly layout: StructLayout<Field>;
  readonly bytes: Uint8Array;
  readonly #view: DataView;

  /** @param room bytes after the struct, for a flexible array; or the memory to use, which begins with the struct */
  constructor(layout: StructLayout<Field>, room: number | Uint8Array = 0) {
    this.layout = layout;
    this.bytes = typeof room === 'number' ? new Uint8Array(layout.size + room) : room;
    if (this.bytes.byteLength < layout.size) {
      throw new RangeError(`${layout.struct} has ${layout.size} bytes, but there are ${this.bytes.byteLength}`);
    }
    this.#view = new DataView(this.bytes.buffer, this.bytes.byteOffset, this.bytes.byteLength);
  }

  /**
   * Writes an integer of the field's size; negative numbers in two's complement.
   *
   * @throws GodwitError GODWIT_INVALID_ARGUMENT for a value that does not fit into the field
   */
  set(field: Field, value: number | bigint): this {
    const [offset, size] = this.layout.fields[field];
    const view = this.#view;
    if (typeof value === 'bigint') {
      if (size !== 8) return this.set(field, Number(value));
      if (value < -(2n ** 63n) || value >= 2n ** 64n) throw this.#cannotHold(field, value);
      view.setBigUint64(offset, BigInt.asUintN(64, value), true);
      return this;
    }
    if (!Number.isSafeInteger(value)) throw this.#cannotHold(field, value);
    if (size < 8 && (value < -(2 ** (8 * size - 1)) || value >= 2 ** (8 * size))) throw this.#cannotHold(field, value);
    if (size === 8) {
      view.setUint32(offset, value, true);
      view.setInt32(offset + 4, Math.floor(value / TWO_32), true);
    } else if (size === 4) view.setUint32(offset, value, true);
    else if (size === 2) view.setUint16(offset, value, true);
    else if (size === 1) view.setUint8(offset, value);
    else throw new RangeError(`${this.layout.struct}.${field} is no integer, it has ${size} bytes`);
    return this;
  }

  /** Reads an unsigned integer. Throws RangeError beyond 2^53. */
  get(field: Field): number {
    const [offset, size] = this.layout.fields[field];
    const view = this.#view;
    if (size === 4) return view.getUint32(offset, true);
    if (size === 2) return view.getUint16(offset, true);
    if (size === 1) return view.getUint8(offset);
    const value = view.getUint32(offset + 4, true) * TWO_32 + view.getUint32(offset, true);
    if (!Number.isSafeInteger(value)) throw new RangeError(`${this.layout.struct}.${field} is beyond 2^53`);
    return value;
  }

  /** Reads an unsigned 64-bit integer: an address, a set of flags. */
  getBigInt(field: Field): bigint {
    return this.#view.getBigUint64(this.layout.fields[field][0], true);
  }

  /** Reads a signed 64-bit integer: a count that is minus errno on failure. */
  getSigned(field: Field): bigint {
    return this.#view.getBigInt64(this.layout.fields[field][0], true);
  }

  #cannotHold(field: Field, value: number | bigint): GodwitError {
    const bits = 8 * this.layout.fields[field][1];
    return new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `${this.layout.struct}.${field} is an integer of ${bits} bits, and cannot be ${value}`,
    );
  }
}

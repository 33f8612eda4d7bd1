import { GodwitError } from '@godwit/core/errors';

/** Arrays and maps may nest this deep: a frame's own fields need 3, the rest is for the embedder's description. */
export const DEEPEST_NESTING = 64;

/**
 * Most values in one header. A decoded value takes up to forty bytes, though it may have come as one byte: a header thus
 * takes at most 10 MiB, beside the bytes of strings. The longest list of runs has half as many values.
 */
const MOST_VALUES = 2 ** 18;

/** The number of values as which a `bin` counts: an empty one takes 192 bytes. */
const BIN_VALUES = 5;

/**
 * Walks one MessagePack object without decoding it, and refuses input that is dangerous for a generic decoder:
 *
 * - lengths beyond the bytes that are there: a decoder may allocate what five bytes announce,
 * - nesting that would exhaust the stack,
 * - extension types (`msgpackr` builds errors, regular expressions and compiled record readers from some of them),
 * - more values than `MOST_VALUES`,
 * - map keys that are not strings, and `__proto__`.
 *
 * An object that passes has at most one value per byte, and is safe to decode.
 */
export function guardHeader(bytes: Uint8Array): void {
  GUARD.check(bytes);
}

/** The bytes of a guard that checks no header, so that it keeps none. */
const NONE = new Uint8Array();

/** The walk through one header. The object is used again and again, so that a header makes no garbage. */
class HeaderGuard {
  #bytes: Uint8Array = NONE;
  #at = 0;
  /** The number of values in arrays and maps so far. */
  #total = 0;
  #depth = 0;
  /** Values still to come at each depth; a map counts keys and values. */
  readonly #left = new Int32Array(DEEPEST_NESTING + 1);
  /** For each depth, 1 in a map. */
  readonly #inMap = new Uint8Array(DEEPEST_NESTING + 1);

  check(bytes: Uint8Array): void {
    this.#bytes = bytes;
    this.#at = this.#total = this.#depth = 0;
    this.#left[0] = 1;
    this.#inMap[0] = 0;
    try {
      this.#walk();
    } finally {
      this.#bytes = NONE;
    }
  }

  #walk(): void {
    const left = this.#left;
    for (;;) {
      while (left[this.#depth] === 0) {
        if (this.#depth === 0) {
          const rest = this.#bytes.length - this.#at;
          if (rest > 0) throw bad(`${rest} bytes follow the end of the header`);
          return;
        }
        this.#depth--;
      }
      const remaining = left[this.#depth] as number;
      left[this.#depth] = remaining - 1;
      this.#need(1);
      const type = this.#bytes[this.#at++] as number;
      if (this.#inMap[this.#depth] === 1 && remaining % 2 === 0) this.#checkKey(type);
      if (type <= 0x7f || type >= 0xe0) continue;
      if (type <= 0x8f) this.#open(type & 0x0f, true);
      else if (type <= 0x9f) this.#open(type & 0x0f, false);
      else if (type <= 0xbf) this.#skip(type & 0x1f);
      else this.#passLong(type);
    }
  }

  /** Passes an object whose type takes a byte of its own. */
  #passLong(type: number): void {
    switch (type) {
      case 0xc0:
      case 0xc2:
      case 0xc3:
        break;
      case 0xc4:
        this.#count(BIN_VALUES - 1);
        this.#skip(this.#length(1));
        break;
      case 0xc5:
        this.#count(BIN_VALUES - 1);
        this.#skip(this.#length(2));
        break;
      case 0xc6:
        this.#count(BIN_VALUES - 1);
        this.#skip(this.#length(4));
        break;
      case 0xd9:
        this.#skip(this.#length(1));
        break;
      case 0xda:
        this.#skip(this.#length(2));
        break;
      case 0xdb:
        this.#skip(this.#length(4));
        break;
      case 0xcc:
      case 0xd0:
        this.#skip(1);
        break;
      case 0xcd:
      case 0xd1:
        this.#skip(2);
        break;
      case 0xca:
      case 0xce:
      case 0xd2:
        this.#skip(4);
        break;
      case 0xcb:
      case 0xcf:
      case 0xd3:
        this.#skip(8);
        break;
      case 0xdc:
        this.#open(this.#length(2), false);
        break;
      case 0xdd:
        this.#open(this.#length(4), false);
        break;
      case 0xde:
        this.#open(this.#length(2), true);
        break;
      case 0xdf:
        this.#open(this.#length(4), true);
        break;
      default:
        throw bad(type === 0xc1 ? 'the byte 0xc1 is never used' : `extension types (${hexByte(type)}) are not allowed`);
    }
  }

  #checkKey(type: number): void {
    const isString = (type >= 0xa0 && type <= 0xbf) || (type >= 0xd9 && type <= 0xdb);
    if (!isString) throw bad(`a map key is not a string but ${hexByte(type)}`);
    if (type === 0xa9 && isProto(this.#bytes, this.#at)) throw bad('a map key is "__proto__"');
  }

  #need(count: number): void {
    const rest = this.#bytes.length - this.#at;
    if (count > rest) throw bad(`a value needs ${count} bytes, ${rest} are left`);
  }

  /** The big-endian number of the next `size` bytes. */
  #length(size: 1 | 2 | 4): number {
    this.#need(size);
    let value = 0;
    for (let i = 0; i < size; i++) value = value * 256 + (this.#bytes[this.#at++] as number);
    return value;
  }

  #skip(count: number): void {
    this.#need(count);
    this.#at += count;
  }

  #count(values: number): void {
    this.#total += values;
    if (this.#total <= MOST_VALUES) return;
    throw new GodwitError(
      'GODWIT_LIMIT_EXCEEDED',
      `a frame header has more than ${MOST_VALUES} values; keep the description of the VM smaller`,
    );
  }

  #open(entries: number, map: boolean): void {
    const values = map ? entries * 2 : entries;
    this.#need(values);
    this.#count(values);
    if (this.#depth + 1 > DEEPEST_NESTING) throw bad(`more than ${DEEPEST_NESTING} arrays or maps are nested`);
    this.#depth++;
    this.#left[this.#depth] = values;
    this.#inMap[this.#depth] = map ? 1 : 0;
  }
}

const GUARD = new HeaderGuard();

const PROTO = [...'__proto__'].map((letter) => letter.charCodeAt(0));

function isProto(bytes: Uint8Array, at: number): boolean {
  return PROTO.every((code, i) => bytes[at + i] === code);
}

function hexByte(byte: number): string {
  return `0x${byte.toString(16).padStart(2, '0')}`;
}

function bad(detail: string): GodwitError {
  return new GodwitError('GODWIT_BAD_STREAM', `a frame header is no valid MessagePack object: ${detail}`);
}

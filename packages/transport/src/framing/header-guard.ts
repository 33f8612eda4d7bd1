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
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  /** Values still to come at each depth; a map counts keys and values. */
  const left = [1];
  /** For each depth, whether it is a map. */
  const inMap = [false];
  let depth = 0;
  let at = 0;
  /** The number of values in arrays and maps so far. */
  let total = 0;

  const need = (count: number): void => {
    if (count > bytes.length - at) {
      throw bad(`a value needs ${count} bytes, ${bytes.length - at} are left`);
    }
  };
  const length = (size: 1 | 2 | 4): number => {
    need(size);
    const value = size === 1 ? view.getUint8(at) : size === 2 ? view.getUint16(at) : view.getUint32(at);
    at += size;
    return value;
  };
  const skip = (count: number): void => {
    need(count);
    at += count;
  };
  const count = (values: number): void => {
    total += values;
    if (total <= MOST_VALUES) return;
    throw new GodwitError(
      'GODWIT_LIMIT_EXCEEDED',
      `a frame header has more than ${MOST_VALUES} values; keep the description of the VM smaller`,
    );
  };
  const open = (entries: number, map: boolean): void => {
    const values = map ? entries * 2 : entries;
    need(values);
    count(values);
    if (depth + 1 > DEEPEST_NESTING) throw bad(`more than ${DEEPEST_NESTING} arrays or maps are nested`);
    depth++;
    left[depth] = values;
    inMap[depth] = map;
  };

  for (;;) {
    while (left[depth] === 0) {
      if (depth === 0) {
        if (at !== bytes.length) throw bad(`${bytes.length - at} bytes follow the end of the header`);
        return;
      }
      depth--;
    }
    const remaining = left[depth] as number;
    left[depth] = remaining - 1;
    need(1);
    const type = bytes[at++] as number;
    if (inMap[depth] === true && remaining % 2 === 0) {
      const isString = (type >= 0xa0 && type <= 0xbf) || (type >= 0xd9 && type <= 0xdb);
      if (!isString) throw bad(`a map key is not a string but ${hexByte(type)}`);
      if (type === 0xa9 && isProto(bytes, at)) throw bad('a map key is "__proto__"');
    }
    if (type <= 0x7f || type >= 0xe0) continue;
    if (type <= 0x8f) open(type & 0x0f, true);
    else if (type <= 0x9f) open(type & 0x0f, false);
    else if (type <= 0xbf) skip(type & 0x1f);
    else {
      switch (type) {
        case 0xc0:
        case 0xc2:
        case 0xc3:
          break;
        case 0xc4:
          count(BIN_VALUES - 1);
          skip(length(1));
          break;
        case 0xc5:
          count(BIN_VALUES - 1);
          skip(length(2));
          break;
        case 0xc6:
          count(BIN_VALUES - 1);
          skip(length(4));
          break;
        case 0xd9:
          skip(length(1));
          break;
        case 0xda:
          skip(length(2));
          break;
        case 0xdb:
          skip(length(4));
          break;
        case 0xcc:
        case 0xd0:
          skip(1);
          break;
        case 0xcd:
        case 0xd1:
          skip(2);
          break;
        case 0xca:
        case 0xce:
        case 0xd2:
          skip(4);
          break;
        case 0xcb:
        case 0xcf:
        case 0xd3:
          skip(8);
          break;
        case 0xdc:
          open(length(2), false);
          break;
        case 0xdd:
          open(length(4), false);
          break;
        case 0xde:
          open(length(2), true);
          break;
        case 0xdf:
          open(length(4), true);
          break;
        default:
          throw bad(
            type === 0xc1 ? 'the byte 0xc1 is never used' : `extension types (${hexByte(type)}) are not allowed`,
          );
      }
    }
  }
}

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

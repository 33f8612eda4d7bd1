import type { Random } from './random.js';

/** Values on which parsers often fail: ends of ranges, MessagePack's type bytes, and lengths that are nearly right. */
const INTERESTING_BYTES = [
  0x00, 0x01, 0x0f, 0x10, 0x7f, 0x80, 0x8f, 0x90, 0x93, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc6, 0xc7,
  0xc9, 0xcb, 0xcc, 0xcd, 0xce, 0xcf, 0xd3, 0xd4, 0xd9, 0xdb, 0xdc, 0xdd, 0xde, 0xdf, 0xe0, 0xfe, 0xff,
];
const INTERESTING_UINT32 = [0, 1, 0x7f, 0xff, 0x100, 0xffff, 0x1_0000, 0x10_0000, 0x100_0001, 0x7fff_ffff, 0xffff_ffff];

/**
 * One to eight changes to a copy of `input`; the copy may be spliced with `other`. The result has at most `longest`
 * bytes.
 */
export function mutate(input: Uint8Array, other: Uint8Array, random: Random, longest: number): Uint8Array {
  let bytes = input;
  for (let changes = 1 + random.below(8); changes > 0; changes--) bytes = change(bytes, other, random);
  return bytes.length > longest ? bytes.subarray(0, longest) : bytes === input ? input.slice() : bytes;
}

function change(bytes: Uint8Array, other: Uint8Array, random: Random): Uint8Array {
  if (bytes.length === 0) return other.slice(0, 1 + random.below(64));
  const at = random.below(bytes.length);
  const length = Math.min(bytes.length - at, 1 + random.below(random.oneIn(4) ? 256 : 8));
  switch (random.below(9)) {
    case 0:
      return edit(bytes, (copy) => {
        copy[at] = (copy[at] as number) ^ (1 << random.below(8));
      });
    case 1:
      return edit(bytes, (copy) => {
        copy[at] = random.pick(INTERESTING_BYTES);
      });
    case 2:
      return edit(bytes, (copy) => {
        copy[at] = random.next();
      });
    case 3:
      return edit(bytes, (copy) => {
        if (at + 4 <= copy.length) new DataView(copy.buffer).setUint32(at, random.pick(INTERESTING_UINT32));
      });
    case 4: // take out
      return join(bytes.subarray(0, at), bytes.subarray(at + length));
    case 5: // double
      return join(bytes.subarray(0, at + length), bytes.subarray(at));
    case 6: // put in
      return join(bytes.subarray(0, at), randomBytes(length, random), bytes.subarray(at));
    case 7: // end early
      return bytes.slice(0, at);
    default: {
      const from = random.below(Math.max(1, other.length));
      return join(bytes.subarray(0, at), other.subarray(from));
    }
  }
}

function edit(bytes: Uint8Array, work: (copy: Uint8Array) => void): Uint8Array {
  const copy = bytes.slice();
  work(copy);
  return copy;
}

export function randomBytes(length: number, random: Random): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let i = 0; i < length; i++) bytes[i] = random.next() >>> 7;
  return bytes;
}

export function join(...parts: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

import { GodwitError } from '../errors.js';

/**
 * A delta turns the version of a page that the destination has into the one that the source has now. It is a sequence of
 * steps, each `unchanged`, `changed` (both varints, in bytes) and then `changed` bytes; what follows the last step is
 * unchanged. A payload holds, for every page, the varint length of its delta and the delta. A varint has 7 bits in a
 * byte, the lowest first, and the top bit set in all bytes but the last (LEB128), in at most `VARINT_BYTES` of them.
 *
 * It serves the purpose of QEMU's XBZRLE (docs/migration/features), in another format.
 */
const VARINT_BYTES = 4;

/** The largest page size that the format can express: a varint has 28 bits. */
export const LARGEST_DELTA_PAGE = 2 ** 28 - 1;

/** This many unchanged words end a run of changed ones: a new step takes at least two bytes. */
const GAP_WORDS = 2;

/** Runs of at least this many bytes are copied by one call, shorter ones in a loop. */
const LONG_RUN = 128;

/** The same memory as words, for comparing, and as bytes. Both start at the same byte. */
export interface WordsAndBytes {
  readonly words: Int32Array;
  readonly bytes: Uint8Array;
}

/**
 * Writes the delta from the version in `old` to the page in `now` (both at word offsets) to `out` at `outAt`, and updates `old` to the
 * new version. Returns the end of the delta in `out`, or -1 when the delta would go beyond `outEnd`; `old` is updated in that case
 * too.
 *
 * The guest may write the page meanwhile. The delta has exactly the bytes that were written to `old`, so that both sides keep the same
 * version.
 */
export function encodeDelta(
  now: Int32Array,
  nowAt: number,
  old: WordsAndBytes,
  oldAt: number,
  wordCount: number,
  out: Uint8Array,
  outAt: number,
  outEnd: number,
): number {
  const { words } = old;
  let at = outAt;
  let i = 0;
  let done = 0;
  for (;;) {
    i = firstChange(now, nowAt, words, oldAt, i, wordCount);
    if (i === wordCount) return at;
    const start = i;
    let same = 0;
    for (; i < wordCount && same < GAP_WORDS; i++) {
      const word = now[nowAt + i] as number;
      if (word === words[oldAt + i]) {
        same++;
      } else {
        words[oldAt + i] = word;
        same = 0;
      }
    }
    const end = i - same;
    const changed = (end - start) * 4;
    if (at + 2 * VARINT_BYTES + changed > outEnd) {
      for (; i < wordCount; i++) words[oldAt + i] = now[nowAt + i] as number;
      return -1;
    }
    at = putVarint(out, at, (start - done) * 4);
    at = putVarint(out, at, changed);
    const from = (oldAt + start) * 4;
    if (changed >= LONG_RUN) out.set(old.bytes.subarray(from, from + changed), at);
    else for (let j = 0; j < changed; j++) out[at + j] = old.bytes[from + j] as number;
    at += changed;
    done = end;
  }
}

/** The index of the first word from `from` on that differs; `count` when none does. */
function firstChange(a: Int32Array, aAt: number, b: Int32Array, bAt: number, from: number, count: number): number {
  let i = from;
  for (; i + 8 <= count; i += 8) {
    const p = aAt + i;
    const q = bAt + i;
    const any =
      ((a[p] as number) ^ (b[q] as number)) |
      ((a[p + 1] as number) ^ (b[q + 1] as number)) |
      ((a[p + 2] as number) ^ (b[q + 2] as number)) |
      ((a[p + 3] as number) ^ (b[q + 3] as number)) |
      ((a[p + 4] as number) ^ (b[q + 4] as number)) |
      ((a[p + 5] as number) ^ (b[q + 5] as number)) |
      ((a[p + 6] as number) ^ (b[q + 6] as number)) |
      ((a[p + 7] as number) ^ (b[q + 7] as number));
    if (any !== 0) break;
  }
  while (i < count && a[aAt + i] === b[bAt + i]) i++;
  return i;
}

/** Bytes that the varint of `value` takes. */
export function varintBytes(value: number): number {
  return value < 0x80 ? 1 : value < 0x4000 ? 2 : value < 0x20_0000 ? 3 : 4;
}

/** Writes `value` (at most `LARGEST_DELTA_PAGE`) and returns where it ends. */
export function putVarint(out: Uint8Array, at: number, value: number): number {
  let rest = value;
  let end = at;
  while (rest >= 0x80) {
    out[end++] = (rest & 0x7f) | 0x80;
    rest >>>= 7;
  }
  out[end++] = rest;
  return end;
}

/** Reads the numbers of an untrusted payload, each checked against the end of the payload. */
class PayloadReader {
  readonly bytes: Uint8Array;
  at = 0;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }

  varint(): number {
    const { bytes } = this;
    let value = 0;
    for (let shift = 0; shift < 7 * VARINT_BYTES; shift += 7) {
      if (this.at >= bytes.length) throw malformed('ends inside a number');
      const byte = bytes[this.at++] as number;
      value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    throw malformed(`has a number of more than ${VARINT_BYTES} bytes`);
  }
}

/**
 * Checks the deltas of `pages` pages: every step is inside its delta, every delta inside the payload and, when applied, inside its
 * page, and no byte is left over. Throws `GODWIT_PROTOCOL`. A payload that has passed can be applied.
 */
export function checkDeltas(payload: Uint8Array, pages: number, pageSize: number): void {
  const reader = new PayloadReader(payload);
  for (let page = 0; page < pages; page++) {
    const length = reader.varint();
    const end = reader.at + length;
    if (end > payload.length) throw malformed(`ends inside the delta of page ${page} of ${pages}`);
    let reached = 0;
    while (reader.at < end) {
      reached += reader.varint();
      const changed = reader.varint();
      reached += changed;
      if (changed === 0) throw malformed(`has a step that changes nothing in the delta of page ${page}`);
      if (reached > pageSize) throw malformed(`writes ${reached - pageSize} bytes beyond the end of page ${page}`);
      reader.at += changed;
    }
    if (reader.at !== end) throw malformed(`has a step that reaches over the end of the delta of page ${page}`);
  }
  if (reader.at !== payload.length) throw malformed(`has ${payload.length - reader.at} bytes behind its last delta`);
}

/**
 * Applies the delta of one page, which `checkDeltas` has checked, to the page at `offset` of `memory`. Returns the offset of the next
 * delta in the payload.
 */
export function applyDelta(payload: Uint8Array, from: number, memory: Uint8Array, offset: number): number {
  let at = from;
  const varint = () => {
    let value = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = payload[at++] as number;
      value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
  };
  const length = varint();
  const end = at + length;
  let to = offset;
  while (at < end) {
    to += varint();
    const changed = varint();
    if (changed >= LONG_RUN) memory.set(payload.subarray(at, at + changed), to);
    else for (let i = 0; i < changed; i++) memory[to + i] = payload[at + i] as number;
    to += changed;
    at += changed;
  }
  return end;
}

function malformed(what: string): GodwitError {
  return new GodwitError('GODWIT_PROTOCOL', `the payload of a "deltaPages" frame ${what}`);
}

import type { Clock } from '../clock.js';
import { GodwitError } from '../errors.js';
import type { DirtyBitmap } from './dirty-bitmap.js';
import { PageRunList } from './page-run.js';

/**
 * Pages of one RAM block as a frame names them: flat `runs`, or a bitmap. Bit 0 of the first of `words` is page `firstPage`; then `runs`
 * is empty.
 */
export interface NamedPages {
  readonly runs: readonly number[];
  /** A multiple of 32. */
  readonly firstPage?: number;
  /** Unsigned 32-bit words, at most `MOST_WORDS`. */
  readonly words?: readonly number[];
}

/** Most words of a bitmap in one frame: 64 KiB of bits, 2 GiB of pages of 4 KiB. */
export const MOST_WORDS = 16_384;

/** Most runs in one frame. */
const MOST_RUNS = 16_384;

const PIECE_PAGES = MOST_WORDS * 32;

/** Bytes that a bitmap takes beside its words, since it needs a frame of its own. */
const FRAME_BYTES = 16;

/** Milliseconds of continuous work after which the event loop gets a turn. Making one piece takes up to 1 ms. */
const YIELD_AFTER_MS = 1;

/**
 * Names all pages of a bitmap, in ascending order and in pieces that fit into a frame each: a part of the block as a bitmap where that is
 * shorter and `asBits` allows it, else as runs. The generator needs memory for one piece only, however large the bitmap is; the bitmap
 * must not change meanwhile.
 */
export async function* namedPages(bitmap: DirtyBitmap, asBits: boolean, clock: Clock): AsyncGenerator<NamedPages> {
  let lastYield = clock.now();
  const runs = new PageRunList();
  for (let firstPage = 0; firstPage < bitmap.pageCount; firstPage += PIECE_PAGES) {
    const pages = Math.min(PIECE_PAGES, bitmap.pageCount - firstPage);
    const bits = asBits ? bitsOf(bitmap, firstPage, pages) : undefined;
    if (bits !== undefined) {
      yield* flat(runs);
      yield bits;
    } else {
      bitmap.runs(runs, firstPage, pages);
      // The last run stays in the list, since it may continue in the next piece.
      if (runs.length > MOST_RUNS) yield* flat(runs);
    }
    if (clock.now() - lastYield < YIELD_AFTER_MS) continue;
    await clock.yield();
    lastYield = clock.now();
  }
  yield* flat(runs);
}

/** Yields all runs in pieces, and empties the list. */
function* flat(runs: PageRunList): Generator<NamedPages> {
  const all = runs.toFlatArray();
  runs.clear();
  for (let at = 0; at < all.length; at += 2 * MOST_RUNS) yield { runs: all.slice(at, at + 2 * MOST_RUNS) };
}

/** The pages of a part of a bitmap as bits, if the bits are shorter on the wire than the runs; else `undefined`. */
function bitsOf(bitmap: DirtyBitmap, firstPage: number, pageCount: number): NamedPages | undefined {
  const words = new Uint32Array(Math.ceil(pageCount / 32));
  bitmap.copyWords(firstPage, words);
  let first = 0;
  let end = words.length;
  while (first < end && words[first] === 0) first++;
  while (end > first && words[end - 1] === 0) end--;
  if (first === end) return undefined;
  let bytes = FRAME_BYTES;
  let starts = 0;
  let before = 0;
  for (let i = first; i < end; i++) {
    const word = words[i] as number;
    bytes += integerBytes(word);
    starts += ones(word & ~((word << 1) | before));
    before = word >>> 31;
  }
  // A run takes at least two bytes, and its first page more where page numbers are large.
  if (starts * (1 + integerBytes(firstPage)) >= bytes || runBytes(bitmap, firstPage, pageCount) > bytes) {
    return { runs: [], firstPage: firstPage + first * 32, words: Array.from(words.subarray(first, end)) };
  }
  return undefined;
}

function runBytes(bitmap: DirtyBitmap, firstPage: number, pageCount: number): number {
  const runs = bitmap.runs(new PageRunList(), firstPage, pageCount);
  let bytes = 0;
  for (let i = 0; i < runs.length; i++) bytes += integerBytes(runs.firstPage(i)) + integerBytes(runs.runPages(i));
  return bytes;
}

/** Bytes of an integer in MessagePack. */
function integerBytes(value: number): number {
  if (value < 0x80) return 1;
  if (value < 0x100) return 2;
  if (value < 0x10000) return 3;
  return value < 0x1_0000_0000 ? 5 : 9;
}

function ones(word: number): number {
  let x = word - ((word >>> 1) & 0x55555555);
  x = (x & 0x33333333) + ((x >>> 2) & 0x33333333);
  return Math.imul((x + (x >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}

/**
 * Sets the bits of a peer's bitmap in `into`. Throws `GODWIT_PROTOCOL` or `GODWIT_OUT_OF_RANGE`, and sets nothing, for a bitmap that is
 * empty or malformed, or that names pages past the end of the block.
 */
export function addNamedBits({ runs, firstPage, words = [] }: NamedPages, into: DirtyBitmap, frame: string): void {
  const bad = (what: string) => new GodwitError('GODWIT_PROTOCOL', `a "${frame}" frame has ${what}`);
  if (runs.length > 0) throw bad('runs and a bitmap; it names its pages in one of the two ways');
  if (words.length === 0 || words.length > MOST_WORDS) {
    throw bad(`a bitmap of ${words.length} words; there may be 1 to ${MOST_WORDS}`);
  }
  if (firstPage === undefined || !Number.isSafeInteger(firstPage) || firstPage < 0 || firstPage % 32 !== 0) {
    throw bad(`a bitmap from page ${firstPage} on; it begins at a multiple of 32`);
  }
  let last = -1;
  for (let i = 0; i < words.length; i++) {
    const word = words[i] as number;
    if (!Number.isInteger(word) || word < 0 || word > 0xffff_ffff)
      throw bad(`${word} in its bitmap; words have 32 bits`);
    if (word !== 0) last = firstPage + i * 32 + 31 - Math.clz32(word);
  }
  if (last === -1) throw bad('a bitmap without a page');
  if (last >= into.pageCount) {
    throw new GodwitError(
      'GODWIT_OUT_OF_RANGE',
      `a "${frame}" frame names page ${last} of a RAM block that has ${into.pageCount} pages`,
    );
  }
  into.orWords(Uint32Array.from(words), firstPage);
}

/** Bound once, since looking up a global is slow in a VM context (such as Jest's). */
const { clz32, imul } = Math;

/**
 * ORs the words of `from` from `first` up to, not including, `end` into the words of `into` that are `shift` places further on; returns
 * whether any of them had a bit.
 */
export function orRange(into: Uint32Array, from: Uint32Array, first: number, end: number, shift = 0): boolean {
  let any = 0;
  for (let i = first; i < end; i++) {
    const bits = from[i] as number;
    any |= bits;
    into[i + shift] = (into[i + shift] as number) | bits;
  }
  return any !== 0;
}

/** Index of the lowest bit that is set; the word must not be 0. */
export function trailingZeros(word: number): number {
  return 31 - clz32(word & -word);
}

/** Bits set in a 32-bit word (Warren, Hacker's Delight, figure 5-2). */
export function popCount(word: number): number {
  let x = fours(pairs(word));
  x = (x + (x >>> 4)) & 0x0f0f0f0f;
  return imul(x, 0x01010101) >>> 24;
}

/** Bits set in four words, summed before the last step: a branch for clean words would make the function three times slower. */
export function popCount4(words: Uint32Array, at: number): number {
  const a = pairs(words[at] as number);
  const b = pairs(words[at + 1] as number);
  const c = pairs(words[at + 2] as number);
  const d = pairs(words[at + 3] as number);
  const ab = fours(a) + fours(b);
  const cd = fours(c) + fours(d);
  const bytes = (ab & 0x0f0f0f0f) + ((ab >>> 4) & 0x0f0f0f0f) + (cd & 0x0f0f0f0f) + ((cd >>> 4) & 0x0f0f0f0f);
  return imul(bytes, 0x01010101) >>> 24;
}

function pairs(word: number): number {
  return word - ((word >>> 1) & 0x55555555);
}

function fours(word: number): number {
  return (word & 0x33333333) + ((word >>> 2) & 0x33333333);
}

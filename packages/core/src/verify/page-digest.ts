/** Bound once, since looking up a global in a VM context (such as Jest's) takes longer than the multiplication. */
const { imul } = Math;

/** Bytes of a page digest on the wire: two little-endian 32-bit words. */
export const DIGEST_BYTES = 8;

/**
 * Writes the 64-bit digest of a page to `into` at `at`, as two words. The digest finds differences of two memories, but does
 * not resist forgery. The page has `count` words from `start` on; `count` is a multiple of 4.
 *
 * Four lanes take every fourth 32-bit word: `h = (rotl(h, 13) ^ w) * odd constant`, each step a bijection of `h` and of `w`.
 * The first half of the digest mixes the four `h`, so that any change of a single word changes the digest. The second half
 * mixes, for each lane, the sum of all values that `h` went through: two pages that differ in several words of a lane and
 * happen to end with the same `h` still differ in these sums. Other differences are missed with a probability of about 2^-64.
 * The constants are the primes of xxHash32 (Y. Collet's specification). On a little-endian host the bytes of the two words are the digest
 * of `docs/wire-format.md`.
 */
export function digestWords(words: Int32Array, start: number, count: number, into: Uint32Array, at: number): void {
  let a = 0x9e3779b1 | 0;
  let b = 0x85ebca77 | 0;
  let c = 0xc2b2ae3d | 0;
  let d = 0x27d4eb2f | 0;
  let sumA = 0;
  let sumB = 0;
  let sumC = 0;
  let sumD = 0;
  // As 32-bit integers the index needs no check for overflow: a tenth less time.
  const end = (start + count) | 0;
  for (let i = start | 0; i < end; i = (i + 4) | 0) {
    a = imul(((a << 13) | (a >>> 19)) ^ (words[i] as number), 0x9e3779b1);
    b = imul(((b << 13) | (b >>> 19)) ^ (words[(i + 1) | 0] as number), 0x85ebca77);
    c = imul(((c << 13) | (c >>> 19)) ^ (words[(i + 2) | 0] as number), 0xc2b2ae3d);
    d = imul(((d << 13) | (d >>> 19)) ^ (words[(i + 3) | 0] as number), 0x27d4eb2f);
    sumA = (sumA + a) | 0;
    sumB = (sumB + b) | 0;
    sumC = (sumC + c) | 0;
    sumD = (sumD + d) | 0;
  }
  into[at] = mix(a, b, c, d);
  into[at + 1] = mix(sumD, sumC, sumB, sumA);
}

/**
 * Writes a page's digest out of the four `h` and the four sums of `digestWords`, which are the eight words of `state` from `from` on.
 */
export function mixDigest(state: Int32Array, from: number, into: Uint32Array, at: number): void {
  const h = from;
  const sum = from + 4;
  into[at] = mixFour(state, h, h + 1, h + 2, h + 3);
  into[at + 1] = mixFour(state, sum + 3, sum + 2, sum + 1, sum);
}

function mixFour(state: Int32Array, a: number, b: number, c: number, d: number): number {
  return mix(state[a] as number, state[b] as number, state[c] as number, state[d] as number);
}

/** A bijection of each argument while the others are fixed. */
function mix(a: number, b: number, c: number, d: number): number {
  return finish(finish(finish(finish(a) ^ b) ^ c) ^ d);
}

/** xxHash32's avalanche, a bijection. */
function finish(hash: number): number {
  let h = imul(hash ^ (hash >>> 15), 0x85ebca77);
  h = imul(h ^ (h >>> 13), 0xc2b2ae3d);
  return h ^ (h >>> 16);
}

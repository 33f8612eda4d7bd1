import type { MemoryWindows } from '../memory/memory-windows.js';

/** Bytes of a page digest on the wire: two little-endian 32-bit words. */
export const DIGEST_BYTES = 8;

/**
 * A 64-bit digest of a page, for comparing two memories, not against an adversary.
 *
 * Four lanes take every fourth 32-bit word: `h = (rotl(h, 13) ^ w) * odd constant`, each step a bijection of `h` and of
 * `w`, so that any change confined to one word, and any exchange of words, changes the digest; other differences are
 * missed with a probability of about 2^-64. The constants are the primes of xxHash32 (Y. Collet's specification).
 */
export function digestPage(windows: MemoryWindows, blockIndex: number, page: number, into: Uint32Array, at: number): void {
  const words = windows.words(blockIndex, page) ?? copyOfPage(windows, blockIndex, page);
  const own = windows.words(blockIndex, page) !== undefined;
  const count = windows.pageSize >>> 2;
  const start = own ? (page % windows.pagesPerWindow) * count : 0;
  let a = 0x9e3779b1;
  let b = 0x85ebca77;
  let c = 0xc2b2ae3d;
  let d = 0x27d4eb2f;
  for (let i = start; i < start + count; i += 4) {
    a = Math.imul(((a << 13) | (a >>> 19)) ^ (words[i] as number), 0x9e3779b1);
    b = Math.imul(((b << 13) | (b >>> 19)) ^ (words[i + 1] as number), 0x85ebca77);
    c = Math.imul(((c << 13) | (c >>> 19)) ^ (words[i + 2] as number), 0xc2b2ae3d);
    d = Math.imul(((d << 13) | (d >>> 19)) ^ (words[i + 3] as number), 0x27d4eb2f);
  }
  into[at] = finish(a) ^ ((finish(c) << 16) | (finish(c) >>> 16));
  into[at + 1] = finish(b) ^ ((finish(d) << 16) | (finish(d) >>> 16));
}

/** xxHash32's avalanche, a bijection. */
function finish(hash: number): number {
  let h = Math.imul(hash ^ (hash >>> 15), 0x85ebca77);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae3d);
  return h ^ (h >>> 16);
}

/** For memory whose views are not 4-byte aligned (never that of this project's own packages). */
function copyOfPage(windows: MemoryWindows, blockIndex: number, page: number): Int32Array {
  return new Int32Array(windows.bytes(blockIndex, page, 1).slice().buffer);
}

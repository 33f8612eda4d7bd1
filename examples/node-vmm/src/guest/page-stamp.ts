/**
 * The stamps in a page. A page has six stamps of 16 bytes, at the offsets 0, 816, 1632, ... 4080: the first stamp begins with the page, and
 * the last stamp ends with it. All fields of a stamp are little-endian u32:
 *
 *     0 generation   4 page number   8 writer | index << 16   12 checksum
 *
 * The checksum is the sum of the other fields, each times an odd constant, modulo 2^32: a change of one field is always found, one of
 * several fields with a probability of 1 - 2^-32. The index (0..5) is part of it, so that swapped stamps are found. In whole-page mode
 * each of the 100 quadwords between two stamps is the second half of a stamp with index 6.
 *
 * A page of generation 0 was never written and is zero. The functions take a page as (words, at): a window of guest RAM, and the index of
 * the page's first word in it. Only `diagnosePage` allocates, when it has found a fault.
 */
import type { DefectKind } from './ports.js';

// Looked up once: these are on the path of every page.
const { imul } = Math;

export const STAMPS = 6;
/** Bytes from one stamp to the next. */
export const STAMP_SPACING = 816;
/** Writer number of the VMM, for mailbox pages. */
export const HOST_WRITER = 0xff00;

const SPACING_WORDS = STAMP_SPACING / 4;
const BODY_INDEX = STAMPS;
const MIX_PAGE = 0x9e3779b1;
const MIX_GENERATION = 0x85ebca6b;
const MIX_WRITER = 0xc2b2ae35;
const MIX_INDEX = 0x27d4eb2f;

/** The expected contents of a page's stamps. */
export interface PageIdentity {
  /** Guest-physical address divided by 4096; less than 2^32. */
  page: number;
  generation: number;
  /** vCPU, or HOST_WRITER. */
  writer: number;
}

/** What is wrong with a page. */
export interface PageFault {
  readonly kind: DefectKind;
  /** Byte offset in the page. */
  readonly offset: number;
  readonly expected: number;
  readonly found: number;
}

export function stampChecksum(page: number, generation: number, writer: number, index: number): number {
  return (
    (imul(page, MIX_PAGE) + imul(generation, MIX_GENERATION) + imul(writer, MIX_WRITER) + imul(index, MIX_INDEX)) >>> 0
  );
}

/** Writes a page in the guest's order, which is ascending. */
export function writePage(words: Uint32Array, at: number, identity: PageIdentity, wholePage: boolean): void {
  const { page, generation, writer } = identity;
  const bodyLow = writer | (BODY_INDEX << 16);
  const bodyHigh = stampChecksum(page, generation, writer, BODY_INDEX);
  for (let index = 0; index < STAMPS; index++) {
    const stamp = at + index * SPACING_WORDS;
    words[stamp] = generation;
    words[stamp + 1] = page;
    words[stamp + 2] = writer | (index << 16);
    words[stamp + 3] = stampChecksum(page, generation, writer, index);
    if (wholePage && index < STAMPS - 1) {
      for (let word = stamp + 4; word < stamp + SPACING_WORDS; word += 2) {
        words[word] = bodyLow;
        words[word + 1] = bodyHigh;
      }
    }
  }
}

/** The expected word `word` (0..1023) of a page. Words outside the stamps are 0 in stamp mode. */
function expectedWord(identity: PageIdentity, word: number): number {
  const { page, generation, writer } = identity;
  if (generation === 0) return 0;
  const field = word % SPACING_WORDS;
  const index = field < 4 ? (word - field) / SPACING_WORDS : BODY_INDEX;
  if (field === 0) return generation;
  if (field === 1) return page;
  return (field & 1) === 0 ? writer | (index << 16) : stampChecksum(page, generation, writer, index);
}

/** Whether the page has the expected contents; generation 0 means zero (at the stamps, or everywhere in whole-page mode). */
export function isPageRight(words: Uint32Array, at: number, identity: PageIdentity, wholePage: boolean): boolean {
  const { page, generation, writer } = identity;
  const written = generation !== 0;
  for (let index = 0; index < STAMPS; index++) {
    const stamp = at + index * SPACING_WORDS;
    if (
      words[stamp] !== generation ||
      words[stamp + 1] !== (written ? page : 0) ||
      words[stamp + 2] !== (written ? writer | (index << 16) : 0) ||
      words[stamp + 3] !== (written ? stampChecksum(page, generation, writer, index) : 0)
    ) {
      return false;
    }
  }
  return !wholePage || wrongBodyWord(words, at, identity) < 0;
}

/** The first unexpected word (0..1023) between the stamps, or -1. */
function wrongBodyWord(words: Uint32Array, at: number, identity: PageIdentity): number {
  const low = expectedWord(identity, 4);
  const high = expectedWord(identity, 5);
  for (let index = 0; index < STAMPS - 1; index++) {
    const end = (index + 1) * SPACING_WORDS;
    for (let word = index * SPACING_WORDS + 4; word < end; word += 2) {
      if (words[at + word] !== low) return word;
      if (words[at + word + 1] !== high) return word + 1;
    }
  }
  return -1;
}

/**
 * Whether the page was being written from `identity.generation` to the next: in the order of the guest's stores (quadwords, ascending)
 * first only new ones, then only old ones. Also true before the first and after the last store.
 */
export function isPageMidWrite(words: Uint32Array, at: number, identity: PageIdentity, wholePage: boolean): boolean {
  const next = { ...identity, generation: identity.generation + 1 };
  let old = false;
  for (let word = 0; word < 1024; word += 2) {
    if (!wholePage && word % SPACING_WORDS >= 4) continue;
    const low = words[at + word];
    const high = words[at + word + 1];
    if (!old && low === expectedWord(next, word) && high === expectedWord(next, word + 1)) continue;
    old = true;
    if (low !== expectedWord(identity, word) || high !== expectedWord(identity, word + 1)) return false;
  }
  return true;
}

/** Diagnoses a page, with the guest's own order of checks; undefined when the page is right. */
export function diagnosePage(
  words: Uint32Array,
  at: number,
  identity: PageIdentity,
  wholePage: boolean,
): PageFault | undefined {
  if (isPageRight(words, at, identity, wholePage)) return undefined;
  const word = (index: number, field: number): number => words[at + index * SPACING_WORDS + field] ?? 0;
  const indexes = Array.from({ length: STAMPS }, (_, index) => index);
  const zero = indexes.every((index) => [0, 1, 2, 3].every((field) => word(index, field) === 0));
  if (zero && identity.generation !== 0) return { kind: 'lost', offset: 0, expected: identity.generation, found: 0 };
  if (!zero) {
    // First check: each stamp is consistent.
    for (const index of indexes) {
      const writer = word(index, 2) & 0xffff;
      const offset = index * STAMP_SPACING;
      const tag = (writer | (index << 16)) >>> 0;
      if (word(index, 2) !== tag) return { kind: 'torn', offset: offset + 8, expected: tag, found: word(index, 2) };
      const checksum = stampChecksum(word(index, 1), word(index, 0), writer, index);
      if (word(index, 3) !== checksum) {
        return { kind: 'torn', offset: offset + 12, expected: checksum, found: word(index, 3) };
      }
    }
    // Second check: all stamps have the same fields.
    for (const index of indexes) {
      for (const field of [0, 1, 2]) {
        const expected = field === 2 ? word(0, 2) & 0xffff : word(0, field);
        const found = field === 2 ? word(index, 2) & 0xffff : word(index, field);
        if (expected !== found) return { kind: 'torn', offset: index * STAMP_SPACING + field * 4, expected, found };
      }
    }
    // Third check: the page is a complete page of another identity.
    const found = { generation: word(0, 0), page: word(0, 1), writer: word(0, 2) & 0xffff };
    if (found.page !== identity.page) {
      return { kind: 'misplaced', offset: 4, expected: identity.page, found: found.page };
    }
    if (found.writer !== identity.writer) {
      return { kind: 'foreign-writer', offset: 8, expected: identity.writer, found: found.writer };
    }
    if (found.generation !== identity.generation) {
      const kind = found.generation < identity.generation ? 'stale' : 'table';
      return { kind, offset: 0, expected: identity.generation, found: found.generation };
    }
  }
  const body = wrongBodyWord(words, at, identity);
  if (body >= 0) {
    return { kind: 'torn', offset: body * 4, expected: expectedWord(identity, body), found: words[at + body] ?? 0 };
  }
  return { kind: 'changed', offset: 0, expected: identity.generation, found: word(0, 0) };
}

import type { GuestRam } from './guest-ram.js';
import { PAGE_SIZE } from './layout.js';
import { DEFAULT_SWEEP, type Sweep } from './sweep-image.js';

/** The state of a sweep, from the first bytes of its pages. */
export interface SweepReport {
  readonly pages: number;
  /** The value of the first page: increments so far, modulo 256. */
  readonly value: number;
  /** Index of the first page that the current pass has not reached yet; `pages` when all are equal. */
  readonly front: number;
  /** The first ten pages with a wrong value, and the number of all of them. */
  readonly wrong: readonly { readonly page: number; readonly expected: number; readonly found: number }[];
  readonly wrongCount: number;
}

const MOST_LISTED = 10;
const MOST_DESCRIBED = 3;

/**
 * Checks the first bytes of all pages of a sweep, in order, while the guest is paused: all are equal, or those from one page on (the
 * one that the guest increments next) are one less, modulo 256.
 *
 * A stale page is found unless it is the one at the front; a stale page at the front is found once the guest has run on. A lost increment
 * stays visible, since the guest increments the byte and does not write a value.
 */
export function checkSweep(firstBytes: Uint8Array): SweepReport {
  const pages = firstBytes.length;
  const value = firstBytes[0] ?? 0;
  const before = (value + 0xff) & 0xff;
  const front = likeliestFront(firstBytes, value, before);
  const wrong: SweepReport['wrong'][number][] = [];
  let wrongCount = 0;
  for (let page = 0; page < pages; page++) {
    const found = firstBytes[page] as number;
    const expected = page < front ? value : before;
    if (found === expected) continue;
    wrongCount++;
    if (wrong.length < MOST_LISTED) wrong.push({ page, expected, found });
  }
  return { pages, value, front, wrong, wrongCount };
}

/** The front for which the fewest pages are wrong: none when the memory is right. */
function likeliestFront(firstBytes: Uint8Array, value: number, before: number): number {
  let front = 0;
  let fewer = 0;
  let fewest = 0;
  for (let page = 0; page < firstBytes.length; page++) {
    const found = firstBytes[page];
    fewer += Number(found !== value) - Number(found !== before);
    if (fewer > fewest && page > 0) continue;
    fewest = fewer;
    front = page + 1;
  }
  return front;
}

/** The first bytes of a sweep's pages, from the guest's memory. */
export function sweptBytes(ram: GuestRam, sweep: Sweep = {}): Uint8Array {
  const { first, end } = { ...DEFAULT_SWEEP, ...sweep };
  const bytes = new Uint8Array((end - first) / PAGE_SIZE);
  for (let page = 0; page < bytes.length; page++) bytes[page] = ram.view(first + page * PAGE_SIZE, 1)[0] as number;
  return bytes;
}

/** The report as one line of text. */
export function describeSweep({ pages, value, front, wrong, wrongCount }: SweepReport): string {
  if (wrongCount === 0) return `${pages} pages right: ${value} up to page ${front}`;
  const described = wrong
    .slice(0, MOST_DESCRIBED)
    .map(({ page, expected, found }) => `page ${page} is ${found}, not ${expected}`);
  if (wrongCount > described.length) described.push('...');
  return `${wrongCount} of ${pages} pages wrong: ${described.join('; ')}`;
}

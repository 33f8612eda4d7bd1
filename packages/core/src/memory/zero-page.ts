import { GodwitError } from '../errors.js';
import type { MemoryWindows } from './memory-windows.js';
import type { PageRunList } from './page-run.js';

/**
 * Splits a run into zero and non-zero pages, which are appended to the two lists. The run must not cross a window. The guest may write
 * meanwhile: a page that is written after it was scanned becomes dirty again, since pages are re-armed before the scan.
 */
export function splitZeroPages(
  windows: MemoryWindows,
  blockIndex: number,
  firstPage: number,
  pageCount: number,
  nonZero: PageRunList,
  zero: PageRunList,
): void {
  const words = windows.words(blockIndex, firstPage);
  if (words === undefined) {
    splitBytes(windows, blockIndex, firstPage, pageCount, nonZero, zero);
    return;
  }
  const wordsPerPage = windows.pageSize >>> 2;
  let at = (firstPage % windows.pagesPerWindow) * wordsPerPage;
  if (at + pageCount * wordsPerPage > words.length) {
    // Words past the end would read as `undefined`, and pages with contents would count as zero.
    throw new GodwitError(
      'GODWIT_OUT_OF_RANGE',
      `pages ${firstPage} + ${pageCount} of RAM block ${blockIndex} cross a window`,
    );
  }
  const end = firstPage + pageCount;
  let page = firstPage;
  let empty = page < end && isZero(words, at, wordsPerPage);
  while (page < end) {
    const first = page;
    const kind = empty;
    do {
      page++;
      at += wordsPerPage;
      empty = page < end && isZero(words, at, wordsPerPage);
    } while (page < end && empty === kind);
    (kind ? zero : nonZero).push(first, page - first);
  }
}

/** Compares eight words at a time: a page with contents in its first 32 bytes takes one step, a zero page about 0.4 us per 4 KiB. */
export function isZero(words: Int32Array, start: number, count: number): boolean {
  const end = start + count;
  for (let i = start; i < end; i += 8) {
    const any =
      (words[i] as number) |
      (words[i + 1] as number) |
      (words[i + 2] as number) |
      (words[i + 3] as number) |
      (words[i + 4] as number) |
      (words[i + 5] as number) |
      (words[i + 6] as number) |
      (words[i + 7] as number);
    if (any !== 0) return false;
  }
  return true;
}

function splitBytes(
  windows: MemoryWindows,
  blockIndex: number,
  firstPage: number,
  pageCount: number,
  nonZero: PageRunList,
  zero: PageRunList,
): void {
  const bytes = windows.bytes(blockIndex, firstPage, pageCount);
  for (let i = 0; i < pageCount; i++) {
    let any = 0;
    for (let at = i * windows.pageSize; any === 0 && at < (i + 1) * windows.pageSize; at++) any |= bytes[at] as number;
    if (any === 0) zero.push(firstPage + i, 1);
    else nonZero.push(firstPage + i, 1);
  }
}

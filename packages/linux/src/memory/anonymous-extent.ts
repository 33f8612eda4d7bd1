import { readFileSync } from 'node:fs';
import { GodwitError } from '@godwit/core/errors';
import { PAGE_REGION, PagemapScan, PM_SCAN_ARG } from '../layouts/pagemap-scan.js';
import { StructBuffer } from '../layouts/struct-buffer.js';
import { addressOf, closeFd, HOST_PAGE_SIZE, ioctl, mincore, OpenFlags, openFile } from '../libc/index.js';

/** Runs of pages that one call may report. */
const REGIONS = 512;
/** Pages that one call may report: 256 MiB of 4 KiB pages, which takes about a millisecond. Holes cost next to nothing. */
const PAGES_PER_CALL = 65_536;
const WORDS = PAGE_REGION.size / 4;

interface Extent {
  readonly start: number;
  readonly end: number;
}

/**
 * The parts of anonymous memory between two offsets (host-page aligned, in bytes) that have contents, ascending; parts that touch may come
 * as several. `address` is where offset 0 is mapped. A page that was only read is a hole: it is the host's page of zeros.
 *
 * PAGEMAP_SCAN (Linux 6.7) walks the page tables and skips what has none. It reports as swapped what is no ordinary entry, which may be a
 * page that is swapped out, a page that is being moved, or the mark of a hole that is write-protected: `withoutMarks` tells them apart.
 *
 * @param requireMapped throws when the memory is no longer mapped; it is asked before each call, since a walk may rest in between
 */
export function* anonymousExtents(
  address: bigint,
  from: number,
  limit: number,
  requireMapped: () => void,
): IterableIterator<Extent> {
  const regions = new Uint32Array(REGIONS * WORDS);
  const base = Number(address);
  let at = from;
  while (at < limit) {
    requireMapped();
    const { found, reached } = scan(regions, base + at, base + limit);
    for (let i = 0; i < found * WORDS; i += WORDS) {
      const start = (regions[i + 1] as number) * 2 ** 32 + (regions[i] as number) - base;
      const end = (regions[i + 3] as number) * 2 ** 32 + (regions[i + 2] as number) - base;
      if (((regions[i + 4] as number) & PagemapScan.PAGE_IS_PRESENT) !== 0) yield { start, end };
      else yield* withoutMarks(address, start, end, requireMapped);
    }
    if (reached <= base + at)
      throw new GodwitError('GODWIT_INTERNAL', `PAGEMAP_SCAN makes no progress at 0x${(base + at).toString(16)}`);
    at = reached - base;
  }
}

/** Reads page tables between two addresses until the call's room is full. The descriptor is closed again: a walk may be given up. */
function scan(regions: Uint32Array, start: number, end: number): { found: number; reached: number } {
  const { PAGE_IS_PRESENT, PAGE_IS_SWAPPED, PAGE_IS_PFNZERO } = PagemapScan;
  const argument = new StructBuffer(PM_SCAN_ARG)
    .set('size', PM_SCAN_ARG.size)
    .set('start', start)
    .set('end', end)
    .set('vec', addressOf(regions))
    .set('vec_len', REGIONS)
    .set('max_pages', PAGES_PER_CALL)
    .set('category_inverted', PAGE_IS_PFNZERO)
    .set('category_mask', PAGE_IS_PFNZERO)
    .set('category_anyof_mask', PAGE_IS_PRESENT | PAGE_IS_SWAPPED)
    .set('return_mask', PAGE_IS_PRESENT | PAGE_IS_SWAPPED);
  const pagemap = openFile('/proc/self/pagemap', OpenFlags.O_RDONLY);
  try {
    const found = ioctl(pagemap, PagemapScan.PAGEMAP_SCAN, argument.bytes, 'PAGEMAP_SCAN');
    return { found, reached: argument.get('walk_end') };
  } finally {
    closeFd(pagemap);
  }
}

/**
 * Of pages whose entries are no ordinary ones, those with contents. mincore says 1 for a page that is there or is being moved; 0 for the mark
 * of a protected hole, and for a page that is swapped out. On a host that has no swap it can only be the mark.
 */
function* withoutMarks(
  address: bigint,
  start: number,
  end: number,
  requireMapped: () => void,
): IterableIterator<Extent> {
  requireMapped();
  if (hasSwap()) {
    yield { start, end };
    return;
  }
  const residency = new Uint8Array((end - start) / HOST_PAGE_SIZE);
  mincore(address + BigInt(start), end - start, residency);
  if (hasSwap()) {
    yield { start, end };
    return;
  }
  for (let page = 0; page < residency.length; ) {
    const first = page;
    const resident = ((residency[page] as number) & 1) === 1;
    while (page < residency.length && (((residency[page] as number) & 1) === 1) === resident) page++;
    if (resident) yield { start: start + first * HOST_PAGE_SIZE, end: start + page * HOST_PAGE_SIZE };
  }
}

/** A line for each swap area follows the heading: proc(5). Where that cannot be read there may be some. */
function hasSwap(): boolean {
  try {
    return readFileSync('/proc/swaps', 'latin1').trim().split('\n').length > 1;
  } catch {
    return true;
  }
}

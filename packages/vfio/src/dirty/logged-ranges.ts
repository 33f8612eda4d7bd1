import type { DmaMapping } from '../dma-space.js';

/** A range of addresses that a device is told to log. Bytes. */
export interface LoggedRange {
  readonly iova: number;
  readonly byteLength: number;
}

/**
 * The most ranges: as many as fit into a page, which every kernel accepts and which is the limit of Linux 6.12
 * (LOG_MAX_RANGES).
 */
export const MOST_RANGES = 256;

/**
 * The ranges that cover all mappings, at most `most` of them: mappings that touch are one range, and when there are still too
 * many, the smallest gaps are logged too. The ranges ascend and do not touch.
 */
export function loggedRanges(mappings: readonly DmaMapping[], most: number = MOST_RANGES): readonly LoggedRange[] {
  const ascending = [...mappings].sort((a, b) => a.iova - b.iova);
  const ranges: { iova: number; end: number }[] = [];
  for (const { iova, byteLength } of ascending) {
    const last = ranges.at(-1);
    if (last !== undefined && iova <= last.end) last.end = Math.max(last.end, iova + byteLength);
    else ranges.push({ iova, end: iova + byteLength });
  }
  const gaps = ranges.slice(1).map((range, i) => ({ i: i + 1, gap: range.iova - (ranges[i]?.end ?? 0) }));
  gaps.sort((a, b) => b.gap - a.gap || a.i - b.i);
  // The largest gaps stay; a range begins after each of them.
  const begins = new Set([0, ...gaps.slice(0, Math.max(0, most - 1)).map(({ i }) => i)]);
  const merged: { iova: number; end: number }[] = [];
  for (const [i, { iova, end }] of ranges.entries()) {
    if (begins.has(i)) merged.push({ iova, end });
    else (merged.at(-1) as { end: number }).end = end;
  }
  return merged.map(({ iova, end }) => ({ iova, byteLength: end - iova }));
}

/** Whether the range of one mapping is logged as a whole. `ranges` as `loggedRanges` makes them. */
export function isLogged(
  ranges: readonly LoggedRange[],
  { iova, byteLength }: Pick<DmaMapping, 'iova' | 'byteLength'>,
): boolean {
  let low = 0;
  let high = ranges.length;
  // The last range that begins at the mapping or before it.
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((ranges[middle] as LoggedRange).iova <= iova) low = middle + 1;
    else high = middle;
  }
  const range = ranges[low - 1];
  return range !== undefined && iova + byteLength <= range.iova + range.byteLength;
}

import type { Watched } from './watch-guest.js';

/** Pixels of a cell, and around the picture. */
const CELL = { width: 12, height: 3 } as const;
const MARGIN = { left: 64, top: 46, bottom: 34, right: 16 } as const;

const COLOURS = { read: '#4a90d9', written: '#d9534a' } as const;

/**
 * A picture of a working set, as SVG: time from left to right, guest memory from top to bottom. A cell is as opaque as many of its pages were
 * accessed in the interval: red for those that were written, blue for those that were only read.
 *
 * @param title of the picture
 */
export function workingSetPicture({ pages, pageSize, cells, intervals }: Watched, title: string): string {
  const width = intervals.length * CELL.width;
  const height = cells * CELL.height;
  const pagesPerCell = pages / cells;
  const rects: string[] = [];
  for (const [i, { accessed, written }] of intervals.entries()) {
    const x = MARGIN.left + i * CELL.width;
    for (let cell = 0; cell < cells; cell++) {
      const writes = written[cell] as number;
      // A page that was written between the two readings of an interval may be in the one and not in the other.
      const reads = Math.max(0, (accessed[cell] as number) - writes);
      const y = MARGIN.top + cell * CELL.height;
      if (reads > 0) rects.push(rect(x, y, COLOURS.read, reads / pagesPerCell));
      if (writes > 0) rects.push(rect(x, y, COLOURS.written, writes / pagesPerCell));
    }
  }
  const seconds = intervals.reduce((sum, { ms }) => sum + ms, 0) / 1000;
  const mebibytes = (pages * pageSize) / 2 ** 20;
  const bottom = MARGIN.top + height;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${MARGIN.left + width + MARGIN.right}" height="${bottom + MARGIN.bottom}" font-family="sans-serif" font-size="11">`,
    '<rect width="100%" height="100%" fill="#fff"/>',
    text(MARGIN.left, 16, title, 'font-weight="bold"'),
    text(MARGIN.left, 34, 'written', `fill="${COLOURS.written}"`),
    text(MARGIN.left + 56, 34, 'only read', `fill="${COLOURS.read}"`),
    `<rect x="${MARGIN.left}" y="${MARGIN.top}" width="${width}" height="${height}" fill="#f4f4f4" stroke="#999"/>`,
    ...rects,
    text(MARGIN.left - 6, MARGIN.top + 10, '0', 'text-anchor="end"'),
    text(MARGIN.left - 6, bottom, `${mebibytes.toFixed(0)} MiB`, 'text-anchor="end"'),
    text(MARGIN.left, bottom + 16, '0 s'),
    text(MARGIN.left + width, bottom + 16, `${seconds.toFixed(1)} s`, 'text-anchor="end"'),
    '</svg>',
    '',
  ].join('\n');
}

function rect(x: number, y: number, colour: string, share: number): string {
  // A single page is still to be seen.
  const opacity = Math.min(1, 0.15 + 0.85 * share).toFixed(2);
  return `<rect x="${x}" y="${y}" width="${CELL.width}" height="${CELL.height}" fill="${colour}" fill-opacity="${opacity}"/>`;
}

function text(x: number, y: number, content: string, attributes = ''): string {
  const escaped = content.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
  return `<text x="${x}" y="${y}" ${attributes}>${escaped}</text>`;
}

import type { Cell, Sample } from './heat.js';

const WIDTH = 1024;
const ROW = 12;
const LEFT = 70;
const TOP = 56;
const BOTTOM = 46;
/** The steps of a colour: cells of one step are drawn as one box. */
const STEPS = 5;
/** Marks on the axis of addresses. */
const MARKS = 8;

/** What the picture is of. */
export interface HeatPicture {
  readonly title: string;
  readonly samples: readonly Sample[];
  /** Time of one sample, in milliseconds. */
  readonly intervalMs: number;
  readonly memoryBytes: number;
}

/**
 * Draws what a guest has used, as SVG: memory from left to right, time from top to bottom. Red was written, blue was only read; the
 * darker, the more pages of the part.
 */
export function heatPicture({ title, samples, intervalMs, memoryBytes }: HeatPicture): string {
  const bottom = TOP + samples.length * ROW;
  const rows = samples.map(({ cells }, i) => {
    const time = `<text x="${LEFT - 8}" y="${TOP + i * ROW + ROW - 2}" text-anchor="end">${(((i + 1) * intervalMs) / 1000).toFixed(1)} s</text>`;
    return (i % 5 === 4 ? time : '') + boxes(cells, TOP + i * ROW);
  });
  const marks = Array.from({ length: MARKS + 1 }, (_, i) => {
    const x = LEFT + (i * WIDTH) / MARKS;
    const mib = Math.round((memoryBytes * i) / MARKS / 2 ** 20);
    return `<path d="M${x} ${bottom}v5" stroke="#555"/><text x="${x}" y="${bottom + 18}" text-anchor="middle">${mib} MiB</text>`;
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${LEFT + WIDTH + 40} ${bottom + BOTTOM}" font-family="sans-serif" font-size="11">`,
    `<title>${title}</title>`,
    '<rect width="100%" height="100%" fill="#fff"/>',
    `<text x="${LEFT}" y="22" font-size="15">${title}</text>`,
    `<rect x="${LEFT}" y="32" width="12" height="12" fill="${colour(STEPS, STEPS)}"/><text x="${LEFT + 18}" y="42">written</text>`,
    `<rect x="${LEFT + 80}" y="32" width="12" height="12" fill="${colour(STEPS, 0)}"/><text x="${LEFT + 98}" y="42">only read</text>`,
    `<text x="${LEFT + 180}" y="42">each cell is ${cellText(memoryBytes, samples)} of memory in one sample; the darker, the more of its pages</text>`,
    `<rect x="${LEFT}" y="${TOP}" width="${WIDTH}" height="${bottom - TOP}" fill="#f4f4f1"/>`,
    ...rows,
    ...marks,
    `<text x="${LEFT + WIDTH / 2}" y="${bottom + 36}" text-anchor="middle">guest-physical memory</text>`,
    '</svg>',
    '',
  ].join('\n');
}

function cellText(memoryBytes: number, [first]: readonly Sample[]): string {
  return `${Math.round(memoryBytes / (first?.cells.length ?? 1) / 1024)} KiB`;
}

/** A sample's cells as boxes: neighbours of one colour are one box. */
function boxes(cells: readonly Cell[], y: number): string {
  const width = WIDTH / cells.length;
  const drawn: string[] = [];
  for (let from = 0; from < cells.length; ) {
    const fill = colourOf(cells[from] as Cell);
    let end = from + 1;
    while (end < cells.length && colourOf(cells[end] as Cell) === fill) end++;
    if (fill !== undefined) {
      const [x, wide] = [LEFT + from * width, (end - from) * width].map((value) => value.toFixed(1));
      drawn.push(`<rect x="${x}" y="${y}" width="${wide}" height="${ROW - 1}" fill="${fill}"/>`);
    }
    from = end;
  }
  return drawn.join('');
}

function colourOf({ used, written }: Cell): string | undefined {
  const all = Math.max(used, written);
  if (all === 0) return undefined;
  return colour(Math.ceil(all * STEPS), Math.round((written / all) * STEPS));
}

/** From blue (nothing of it written) to red (all of it), pale for few pages and dark for many; both in steps. */
function colour(many: number, written: number): string {
  const hue = 215 + (written / STEPS) * 140;
  const light = 82 - (many / STEPS) * 40;
  return `hsl(${Math.round(hue)},70%,${Math.round(light)}%)`;
}

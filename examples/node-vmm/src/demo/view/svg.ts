import type { Colour, StyledLine } from './styled-line.js';

/** Columns and rows in SVG units: a 14 px monospaced font. */
const COLUMN = 8.4;
const ROW = 19;
const PADDING = 18;
const TITLE_BAR = 30;

const BACKGROUND = '#12161d';
const COLOURS: Readonly<Record<Colour, string>> = {
  plain: '#d7dde6',
  bold: '#ffffff',
  dim: '#7d8794',
  empty: '#3a4450',
  source: '#5cc8e6',
  destination: '#d58cf0',
  raw: '#5b93f5',
  zero: '#7d8794',
  good: '#6fd08c',
  link: '#6fd08c',
  warn: '#f0b85a',
  bad: '#f2777a',
};

/** Block characters as rectangles [x, y, width, height] in parts of a cell, since fonts leave gaps between the characters. */
const BLOCKS: Readonly<Record<string, readonly [number, number, number, number]>> = {
  ...Object.fromEntries([...'▏▎▍▌▋▊▉█'].map((glyph, at) => [glyph, [0, 0.12, (at + 1) / 8, 0.76] as const])),
  ...Object.fromEntries(
    [...'▁▂▃▄▅▆▇'].map((glyph, at) => [glyph, [0, 0.88 - ((at + 1) / 8) * 0.76, 1, ((at + 1) / 8) * 0.76] as const]),
  ),
  '▐': [0.5, 0.12, 0.5, 0.76],
  '░': [0, 0.12, 1, 0.76],
  '▒': [0, 0.12, 1, 0.76],
  '━': [0, 0.44, 1, 0.12],
  '─': [0, 0.47, 1, 0.06],
  '┃': [0.35, 0, 0.3, 1],
};

/** The same characters in the guest's picture, where they touch each other. */
const CELL_BLOCKS: typeof BLOCKS = {
  '▀': [0, 0, 1, 0.5],
  '▄': [0, 0.5, 1, 0.5],
  '█': [0, 0, 1, 1],
};

/** The picture of a terminal as SVG, for documents: the same lines that the live view paints. */
export function svg(lines: readonly StyledLine[], columns: number, title: string): string {
  const width = Math.ceil(columns * COLUMN + PADDING * 2);
  const height = Math.ceil(lines.length * ROW + PADDING * 1.5 + TITLE_BAR);
  const body = lines.flatMap((line, row) => lineElements(line, TITLE_BAR + PADDING / 2 + row * ROW));
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="img" aria-label="${escaped(title)}">`,
    `<title>${escaped(title)}</title>`,
    `<rect width="${width}" height="${height}" rx="9" fill="${BACKGROUND}"/>`,
    ...['#f2777a', '#f0b85a', '#6fd08c'].map(
      (fill, at) => `<circle cx="${20 + at * 20}" cy="17" r="5.5" fill="${fill}"/>`,
    ),
    `<g font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace" font-size="14" xml:space="preserve">`,
    ...body,
    '</g>',
    '</svg>',
    '',
  ].join('\n');
}

function lineElements(line: StyledLine, top: number): string[] {
  const elements: string[] = [];
  let column = 0;
  for (const { text, colour } of line) {
    for (const run of runsOf(text)) {
      elements.push(...runElements(run, colour, column, top));
      column += run.length;
    }
  }
  return elements;
}

/** Splits text into runs of one block character, each drawn as a rectangle, and the texts between them. */
function runsOf(text: string): string[] {
  const runs: string[] = [];
  for (const glyph of text) {
    const last = runs.at(-1);
    const same = last !== undefined && (!isBlock(glyph) ? !isBlock(last[0] ?? '') : last[0] === glyph);
    if (same) runs[runs.length - 1] = last + glyph;
    else runs.push(glyph);
  }
  return runs;
}

function isBlock(glyph: string): boolean {
  return BLOCKS[glyph] !== undefined || CELL_BLOCKS[glyph] !== undefined;
}

function runElements(run: string, colour: Colour, column: number, top: number): string[] {
  const fill = COLOURS[colour];
  const glyph = run[0] ?? ' ';
  const isHost = colour === 'source' || colour === 'destination';
  const block = (isHost ? CELL_BLOCKS[glyph] : undefined) ?? BLOCKS[glyph];
  const x = PADDING + column * COLUMN;
  if (block !== undefined) {
    const [left, up, across, down] = block;
    const shade = glyph === '▒' || (glyph === '░' && colour !== 'empty') ? ' fill-opacity="0.5"' : '';
    const span = (run.length - 1 + across) * COLUMN;
    return [
      `<rect x="${n(x + left * COLUMN)}" y="${n(top + up * ROW)}" width="${n(span)}" height="${n(down * ROW)}" fill="${fill}"${shade} shape-rendering="crispEdges"/>`,
    ];
  }
  const weight = colour === 'bold' ? ' font-weight="bold"' : '';
  // Each group of words is an element of its own, since most renderers draw several spaces as one.
  return [...run.matchAll(/\S+(?: \S+)*/g)].map(
    ({ 0: text, index }) =>
      `<text x="${n(x + index * COLUMN)}" y="${n(top + ROW * 0.76)}" textLength="${n(text.length * COLUMN)}" lengthAdjust="spacingAndGlyphs" fill="${fill}"${weight}>${escaped(text)}</text>`,
  );
}

function n(value: number): string {
  return String(Math.round(value * 100) / 100);
}

function escaped(text: string): string {
  return text.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`);
}

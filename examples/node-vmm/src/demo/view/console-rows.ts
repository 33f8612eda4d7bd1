import { type HeartbeatLine, parseGuestLine } from '../../guest/heartbeat.js';
import { CELLS } from '../../guest/picture.js';
import type { HostName } from '../demo-event.js';
import { formatMs } from '../quantity.js';
import { type StyledLine, span } from './styled-line.js';
import type { ViewState } from './view-state.js';

const MARGIN = '  ';

/** The mark before each row, which shows the host that has printed it, with and without colours. */
const MARKS: Readonly<Record<HostName, string>> = { source: '▌', destination: '▐' };

/** The characters for two cells above each other. The index is the upper cell plus twice the lower cell. */
const HALVES = [' ', '▀', '▄', '█'];

/** The characters for two by two cells. In the index, upper left counts 1, upper right 2, lower left 4, lower right 8. */
const QUADRANTS = [...' ▘▝▀▖▌▞▛▗▚▐▜▄▙▟█'];

/** Columns of a row with a character for each two cells above each other, and the number of its heartbeat. */
const WIDE = MARGIN.length + 2 + CELLS + 9;

interface Beat {
  readonly host: HostName;
  readonly line: HeartbeatLine;
}

/** The guest's console at a width: two rows of its picture in each line, and whatever else it has printed. */
export function consoleRows(console: ViewState['console'], width: number): readonly StyledLine[] {
  const rows: StyledLine[] = [];
  let upper: Beat | undefined;
  let last: HostName | undefined;
  const flush = (lower?: Beat) => {
    if (upper !== undefined) rows.push(pictureRow(upper, lower, width));
    upper = undefined;
  };
  for (const [at, { host, text }] of console.entries()) {
    if (last !== undefined && last !== host) {
      flush();
      rows.push(crossing(console.slice(at), width));
    }
    last = host;
    const line = parseGuestLine(text);
    if (line.type !== 'heartbeat') {
      flush();
      rows.push([span(`${MARGIN}${MARKS[host]} ${printable(text)}`, host)]);
      continue;
    }
    const beat = { host, line };
    // Rows are paired by their number, so that a line keeps its two rows at every redraw: else the picture would flicker as it scrolls.
    if (upper !== undefined && line.count === upper.line.count + 1) flush(beat);
    else {
      flush();
      if (line.count % 2 === 1) upper = beat;
      else rows.push(pictureRow(undefined, beat, width));
    }
  }
  flush();
  return rows;
}

/** The rows around the last move, which show that the picture continues; without a move, the last ones. */
export function rowsAround(rows: readonly StyledLine[], count: number): readonly StyledLine[] {
  const move = rows.findLastIndex(isCrossing);
  const start = move === -1 ? rows.length - count : Math.min(move - Math.floor(count / 2), rows.length - count);
  return rows.slice(Math.max(0, start)).slice(0, count);
}

export function legend(width: number): StyledLine {
  const right = ` ${MARKS.source} source  ${MARKS.destination} destination`;
  const title =
    ['─ guest console ', '─ console ', ''].find(({ length }) => MARGIN.length + length + right.length <= width) ?? '';
  const rule = '─'.repeat(Math.max(0, width - MARGIN.length - title.length - right.length));
  return [
    span(`${MARGIN}${title}${rule}`, 'dim'),
    span(` ${MARKS.source} source`, 'source'),
    span(`  ${MARKS.destination} destination`, 'destination'),
  ];
}

function pictureRow(upper: Beat | undefined, lower: Beat | undefined, width: number): StyledLine {
  const { host, line } = (lower ?? upper) as Beat;
  const [above, below] = [upper?.line.cells ?? 0n, lower?.line.cells ?? 0n];
  const wide = width >= WIDE;
  return [
    span(`${MARGIN}${MARKS[host]} `, host),
    span(wide ? halves(above, below) : quadrants(above, below), host),
    span(wide ? String(line.count).padStart(8) : '', 'dim'),
  ];
}

function halves(above: bigint, below: bigint): string {
  return columns(1, (shift) => HALVES[bit(above, shift) + 2 * bit(below, shift)] ?? ' ');
}

function quadrants(above: bigint, below: bigint): string {
  return columns(2, (shift) => {
    const [left, right] = [shift + 1, shift];
    return QUADRANTS[bit(above, left) + 2 * bit(above, right) + 4 * bit(below, left) + 8 * bit(below, right)] ?? ' ';
  });
}

/** One character for each `step` cells, from the leftmost ones, which are the highest bits. */
function columns(step: number, glyph: (shift: number) => string): string {
  return Array.from({ length: CELLS / step }, (_, at) => glyph(CELLS - (at + 1) * step)).join('');
}

function bit(cells: bigint, shift: number): number {
  return Number((cells >> BigInt(shift)) & 1n);
}

/** The line between the rows of two hosts: how long the guest stood still by its own clock, by the first two heartbeats of the new host. */
function crossing(after: ViewState['console'], width: number): StyledLine {
  const beats = after.map(({ text }) => parseGuestLine(text)).filter((line) => line.type === 'heartbeat');
  const stallMs = Math.max(0, ...beats.slice(0, 2).map(({ stall }) => stall)) / 1000;
  const text =
    beats.length < 2
      ? 'the guest has moved'
      : `here ${width >= WIDE ? 'the guest' : 'it'} stood still for ${formatMs(stallMs)}${width >= WIDE ? ', by its own clock' : ''}`;
  const rule = CROSSING.repeat(Math.max(2, Math.floor((Math.min(width, WIDE) - text.length - 8) / 2)));
  return [span(`${MARGIN}${rule} ${text} ${rule}`, 'warn')];
}

const CROSSING = '╌';

function isCrossing(line: StyledLine): boolean {
  return line.length === 1 && line[0]?.text.startsWith(`${MARGIN}${CROSSING}`) === true;
}

/** Replaces control characters, since the guest may print anything. */
function printable(text: string): string {
  return text.replace(/[^\x20-\x7e]/g, '·');
}

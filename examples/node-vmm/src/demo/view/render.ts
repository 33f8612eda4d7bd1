import { consoleRows, legend, rowsAround } from './console-rows.js';
import { faultLines } from './faults.js';
import { indented, phaseLines, route, titleLines } from './header.js';
import { rateLines, ratesInWords } from './rates.js';
import { hopLines, roundLines } from './rounds.js';
import { cut, type StyledLine } from './styled-line.js';
import { summaryLines } from './summary.js';
import type { ViewState } from './view-state.js';

/** The fewest rows of the guest's console: fewer would not show the picture. */
const FEWEST_CONSOLE_ROWS = 3;
/** The most lines of notices while the guest moves. The reason in the summary is complete. */
const MOST_NOTICE_LINES = 6;
/** Rows of the picture where it goes into the scrollback. */
const SCROLLED_ROWS = 14;
/** The fewest rows of a picture that has empty lines. */
const AIRY_ROWS = 30;

/**
 * Draws the view at a size in columns and rows; `nowMs` is on the events' clock. No line is wider than `columns`. While the run goes on
 * there are never more than `rows` lines; at its end, only if the result alone needs more.
 */
export function render(view: ViewState, columns: number, rows: number, nowMs: number): StyledLine[] {
  const width = Math.max(20, columns);
  const lines = isOver(view) ? lastPicture(view, width, rows) : movingPicture(view, width, rows, nowMs);
  return lines.map((line) => cut(line, width));
}

function isOver(view: ViewState): boolean {
  return view.result !== undefined || view.failure !== undefined;
}

function movingPicture(view: ViewState, width: number, rows: number, nowMs: number): StyledLine[] {
  const air: StyledLine[] = rows >= 20 ? [[]] : [];
  const head = [...titleLines(view, width), ...air, route(view, width), ...phaseLines(view, width, nowMs), ...air];
  const rates = [...air, ...rateLines(view, width), ...faultLines(view, width), ...air];
  const notices = noticeLines(view, width).slice(-MOST_NOTICE_LINES);
  const room = rows - head.length - rates.length - notices.length - 1;
  const table = tableLines(view, width, Math.max(1, Math.min(Math.ceil(room / 2), room - FEWEST_CONSOLE_ROWS)));
  const left = Math.max(0, room - table.length);
  const picture = [...head, ...table, ...rates, legend(width), ...filled(consoleRows(view.console, width), left)];
  return [...picture.slice(0, rows - notices.length), ...notices].slice(0, rows);
}

/**
 * The result, with as much of the picture above it as fits: first the guest's crossing, then the rounds and the rates. Where the result
 * alone is longer than the terminal, the picture goes above it, into the scrollback.
 */
function lastPicture(view: ViewState, width: number, rows: number): StyledLine[] {
  const airy = rows >= AIRY_ROWS;
  const air: StyledLine[] = airy ? [[]] : [];
  const summary = [...noticeLines(view, width), ...air, ...summaryLines(view, width, !airy)];
  const whole = [...titleLines(view, width).slice(0, airy ? undefined : 1), route(view, width)];
  const console = consoleRows(view.console, width);
  if (console.length === 0) return [...whole, ...summary];
  const least = summary.length + FEWEST_CONSOLE_ROWS;
  // On a small terminal the crossing and the result are more important than the title.
  const title = least <= rows && least + whole.length + 1 > rows ? [] : whole;
  let room = least <= rows ? rows - summary.length - title.length : SCROLLED_ROWS;
  const take = (lines: readonly StyledLine[]): readonly StyledLine[] => {
    if (room - lines.length < FEWEST_CONSOLE_ROWS) return [];
    room -= lines.length;
    return lines;
  };
  const head = take([legend(width)]);
  const table = take([...air, ...tableLines(view, width, airy ? Math.ceil(room / 2) : 3), ...air]);
  const rates = take(airy ? [...rateLines(view, width), []] : ratesInWords(view, width));
  return [...title, ...table, ...rates, ...head, ...rowsAround(console, room), ...summary];
}

function tableLines(view: ViewState, width: number, most: number): StyledLine[] {
  return (view.guest?.settings.roundTrips ?? 0) > 0 ? hopLines(view, most) : roundLines(view, width, most);
}

function noticeLines(view: ViewState, width: number): StyledLine[] {
  return view.notices.flatMap(({ text, bad }) => indented(`! ${text}`, width, bad ? 'bad' : 'warn'));
}

/** The last `count` rows, followed by empty ones where there are fewer, so that the picture keeps its height. */
function filled(rows: readonly StyledLine[], count: number): StyledLine[] {
  const shown = count === 0 ? [] : rows.slice(-count);
  return [...shown, ...Array.from({ length: count - shown.length }, (): StyledLine => [])];
}

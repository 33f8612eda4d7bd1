import { PAGE_SIZE } from '../../guest/layout.js';
import { formatMs, formatRate } from '../quantity.js';
import { bar, gauge, sparkline } from './chart.js';
import { type Colour, type Span, type StyledLine, span, wrap } from './styled-line.js';
import type { ViewState } from './view-state.js';

const MARGIN = '  ';
const NOT_YET = 'not measured yet';

/** Three lines: the rate of the guest's writes, the rate of the link, and the predicted or actual downtime. */
export function rateLines(view: ViewState, width: number): StyledLine[] {
  const words = downtimeText(view);
  const texts = [dirtyText(view), linkText(view), words.text];
  const chart = Math.max(4, width - MARGIN.length - 12 - Math.max(...texts.map(({ length }) => length), 17));
  // Both charts have the same scale. A bandwidth limit, if there is one, is the full height: the limit does not apply to the switchover,
  // whose rate would otherwise set the scale.
  const limited = view.guest?.settings.maxBandwidth ?? 0;
  const top = Math.max(...view.dirtyBytesPerSecond, ...(limited > 0 ? [limited] : view.linkBytesPerSecond), 1);
  const limit = view.guest?.settings.downtimeLimitMs ?? 100;
  const row = (name: string, body: Span[], text: string): StyledLine => [
    span(`${MARGIN}${name.padEnd(10)}`),
    ...body,
    span(`  ${text}`),
  ];
  return [
    row('dirtied', sparkline(view.dirtyBytesPerSecond, chart, top, 'warn'), texts[0] ?? ''),
    row('link', sparkline(view.linkBytesPerSecond, chart, top, 'link'), texts[1] ?? ''),
    row(
      'downtime',
      words.ms === undefined ? bar(0, chart, 'dim') : gauge(words.ms, limit, limit * 2, chart, words.colour),
      words.text,
    ),
  ];
}

/** The same values in words, for a picture with little room. */
export function ratesInWords(view: ViewState, width: number): StyledLine[] {
  const text = `dirtied ${dirtyText(view)}, link ${linkText(view)}`;
  return wrap(text, width - MARGIN.length, 0, 'dim').map((line) => [span(MARGIN), ...line]);
}

function hasEnded(view: ViewState): boolean {
  return view.state === 'completed' && view.hops.length > 0;
}

function dirtyText(view: ViewState): string {
  const history = view.dirtyBytesPerSecond;
  if (hasEnded(view)) return `up to ${formatRate(Math.max(...history, 0))}`;
  // A dirty rate is known from the first harvest on, which ends the first round.
  const now = (view.progress?.dirtyPagesPerSecond ?? 0) * PAGE_SIZE;
  return now > 0 ? formatRate(now) : lastOf(history);
}

function linkText(view: ViewState): string {
  const history = view.linkBytesPerSecond;
  if (hasEnded(view)) return `up to ${formatRate(Math.max(...history, 0))}`;
  const { rawBytes, wireBytesPerSecond } = view.progress ?? { rawBytes: 0, wireBytesPerSecond: 0 };
  const now = rawBytes > 0 ? wireBytesPerSecond : 0;
  // A sample of 0 only means that nothing was sent between two samples, so that the last rate is shown.
  return now > 0 ? formatRate(now) : lastOf(history);
}

function lastOf(history: readonly number[]): string {
  const last = history.findLast((value) => value > 0);
  return last === undefined ? NOT_YET : formatRate(last);
}

function downtimeText(view: ViewState): {
  readonly ms: number | undefined;
  readonly text: string;
  readonly colour: Colour;
} {
  const limit = view.guest?.settings.downtimeLimitMs ?? 100;
  const actual = hasEnded(view) ? view.hops.at(-1)?.summary.downtimeMs : undefined;
  const ms = actual ?? view.progress?.predictedDowntimeMs ?? view.rounds.at(-1)?.predictedDowntimeMs;
  if (ms === undefined) return { ms, text: 'not predicted yet', colour: 'dim' };
  const text = `${actual === undefined ? '' : 'was '}${formatMs(ms)} of ${formatMs(limit)}`;
  return { ms, text, colour: ms <= limit ? 'good' : 'warn' };
}

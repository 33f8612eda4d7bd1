import type { Progress, RoundRecord } from '@godwit/core';
import { PAGE_SIZE } from '../../guest/layout.js';
import type { HostName } from '../demo-event.js';
import { formatBytes, formatCount, formatMs, formatRange, formatRate, formatShare } from '../quantity.js';
import { bar, gauge, sparkline, stackedBar } from './chart.js';
import { type Colour, cut, type Span, type StyledLine, span, spread, widthOf, wrap } from './styled-line.js';
import { summaryLines } from './summary.js';
import type { ViewState } from './view-state.js';

const MARGIN = '  ';
/** Three rates, the console's title and the empty lines between the parts. */
const FIXED_LINES = 7;

/**
 * Draws the view at a size in columns and rows; `nowMs` is on the events' clock. No line is wider than `columns`.
 */
export function render(view: ViewState, columns: number, rows: number, nowMs: number): StyledLine[] {
  const width = Math.max(20, columns);
  const notices = view.notices.flatMap(({ text, bad }) => indented(`! ${text}`, width, bad ? 'bad' : 'warn'));
  const head = header(view, width, nowMs);
  const room = Math.max(4, rows - FIXED_LINES - head.length - notices.length);
  const many = (view.guest?.settings.roundTrips ?? 0) > 0;
  const table = many ? hopLines(view, Math.ceil(room / 2)) : roundLines(view, width, Math.ceil(room / 2));
  const lines: StyledLine[] = [
    ...head,
    [],
    ...table,
    [],
    ...rates(view, width),
    [],
    ...consoleLines(view, width, Math.max(3, room - table.length)),
    ...notices,
    ...(view.result === undefined && view.failure === undefined ? [] : [[], ...summaryLines(view, width)]),
  ];
  return lines.map((line) => cut(line, width));
}

function indented(text: string, width: number, colour: Colour): StyledLine[] {
  return wrap(text, width - MARGIN.length, MARGIN.length, colour).map((line) => [span(MARGIN), ...line]);
}

function header(view: ViewState, width: number, nowMs: number): StyledLine[] {
  const left = [span('godwit', 'bold'), span(' live migration', 'dim')];
  if (view.guest === undefined) return [spread(left, [span('booting a guest', 'dim')], width), []];
  const { spec, settings, note } = view.guest;
  const facts =
    `${formatBytes(spec.memoryBytes)}, ${spec.kind === 'kvm' ? `${spec.vcpus} vCPU${spec.vcpus === 1 ? '' : 's'} on KVM` : `${spec.vcpus} writers, no KVM`}, ` +
    `${spec.dirtyPagesPerSecond === 0 ? 'flat out' : `${formatCount(spec.dirtyPagesPerSecond)} pages/s`} over ${formatBytes(spec.workingSetBytes)}`;
  const fits = widthOf(left) + facts.length < width;
  const lines: StyledLine[] = fits
    ? [spread(left, [span(facts, 'dim')], width)]
    : [left, [span(`${MARGIN}${facts}`, 'dim')]];
  if (note !== undefined) lines.push(...indented(note, width, 'warn'));
  lines.push(
    [],
    route(view, width),
    spread(
      phase(view, nowMs),
      [span(settings.maxBandwidth === 0 ? '' : `pre-copy limited to ${formatRate(settings.maxBandwidth)}`, 'dim')],
      width,
    ),
  );
  return lines;
}

/** `● source ━━━━━━━━▶──────── destination ○`: the part of the guest that was sent. */
function route(view: ViewState, width: number): StyledLine {
  const from: HostName = view.hop?.from ?? 'source';
  const to: HostName = view.hop?.to ?? 'destination';
  const length = Math.max(4, width - from.length - to.length - 10);
  const share = view.runsAt === to && view.hop !== undefined ? 1 : shareMoved(view);
  const done = Math.min(length - 1, Math.floor(share * length));
  const here = view.runsAt === from;
  return [
    span(`${MARGIN}${here ? '●' : '○'} ${from} `, from),
    span('━'.repeat(done), from),
    span('▶', view.runsAt === to && view.hop !== undefined ? to : 'plain'),
    span('─'.repeat(length - 1 - done), 'dim'),
    span(` ${to} ${here ? '○' : '●'}`, to),
  ];
}

/** The sent part of the guest: 1 without the pages that are owed in this round, as a part of the largest round. */
function shareMoved(view: ViewState): number {
  const largest = Math.max(...view.rounds.map(pagesToSend), view.current?.dirtyPages ?? 0, 1);
  const { progress } = view;
  if (progress === undefined) return 0;
  const owed = Math.max(0, progress.roundPages - progress.roundPagesSent);
  return Math.max(0, 1 - owed / largest) * (progress.round > 1 ? 1 : 0.9);
}

function phase(view: ViewState, nowMs: number): StyledLine {
  const since = formatMs(Math.max(0, nowMs - view.phaseSinceMs));
  switch (view.phase) {
    case 'booting':
      return [span(`${MARGIN}booting the guest`, 'dim')];
    case 'warming-up':
      return [span(`${MARGIN}warming up: the guest fills its working set`), span(` · ${since}`, 'dim')];
    case 'migrating': {
      const left = leftText(view.progress);
      return [
        span(`${MARGIN}${view.state}`, view.state === 'device' ? 'warn' : 'good'),
        span(` · ${since}${view.state === 'completed' ? '' : left}`, 'dim'),
        span(
          view.throttle === 0 ? '' : ` · the guest is held back for ${formatShare(view.throttle)} of its time`,
          'warn',
        ),
      ];
    }
    case 'settling':
      return [
        span(`${MARGIN}the guest checks its memory at the ${view.runsAt}`, view.runsAt),
        span(` · ${since}`, 'dim'),
      ];
    case 'checking':
      return [span(`${MARGIN}checking every page from outside the guest`, view.runsAt)];
    case 'done':
      return view.failure === undefined ? [span(`${MARGIN}done`, 'good')] : [span(`${MARGIN}failed`, 'bad')];
  }
}

/** The time that is left, as an interval where there is one. */
function leftText(
  progress: (Progress & { readonly remainingRangeMs?: readonly [number, number] | undefined }) | undefined,
): string {
  if (progress?.remainingMs === undefined) return '';
  const { remainingMs, remainingRangeMs: range } = progress;
  return range === undefined ? ` · about ${formatMs(remainingMs)} left` : ` · ${formatRange(range)} left`;
}

function pagesToSend(round: RoundRecord): number {
  const { raw, zero, delta, compressed } = round.pages;
  return raw + zero + delta + compressed;
}

/** One bar per round, as long as its pages against the largest round; the current one fills up. */
function roundLines(view: ViewState, width: number, most: number): StyledLine[] {
  const largest = Math.max(
    ...view.rounds.map(pagesToSend),
    view.progress?.roundPages ?? 0,
    view.current?.dirtyPages ?? 0,
    1,
  );
  const facts = width >= 100 ? 46 : width >= 76 ? 36 : 24;
  const barWidth = Math.max(6, width - 12 - facts);
  const lines: StyledLine[] = view.rounds.map((round) => [
    span(`${MARGIN}${roundName(round).padEnd(9)} `, round.phase === 'stop-and-copy' ? 'warn' : 'plain'),
    ...stackedBar(
      [
        { amount: round.pages.raw, colour: round.phase === 'stop-and-copy' ? 'warn' : 'raw' },
        { amount: round.pages.zero, colour: 'zero', glyph: '▒' },
      ],
      largest,
      barWidth,
    ),
    span(roundFacts(pagesToSend(round), round.wireBytes, round.totalMs, facts), 'dim'),
  ]);
  const { progress, current } = view;
  if (current !== undefined && view.state !== 'completed') {
    const total = current.dirtyPages;
    const sent =
      progress !== undefined && progress.round === current.round ? Math.min(total, progress.roundPagesSent) : 0;
    const columns = Math.max(1, Math.round((total / largest) * barWidth));
    const filled = total === 0 ? 0 : Math.round((sent / total) * columns);
    lines.push([
      span(`${MARGIN}${`round ${current.round}`.padEnd(9)} `),
      span('█'.repeat(filled), 'raw'),
      span('░'.repeat(columns - filled), 'empty'),
      span(' '.repeat(barWidth - columns)),
      span(`${formatCount(sent)} of ${formatCount(total)}`.padStart(facts), 'plain'),
    ]);
  }
  if (lines.length === 0) return [[span(`${MARGIN}no round yet`, 'dim')]];
  if (lines.length <= most) return lines;
  // The first round and the newest ones are shown.
  const hidden = lines.length - most + 1;
  return [...lines.slice(0, 1), [span(`${MARGIN}… ${hidden} more`, 'dim')], ...lines.slice(1 + hidden)];
}

function roundName(round: RoundRecord): string {
  return round.phase === 'stop-and-copy' ? 'final' : `round ${round.round}`;
}

function roundFacts(pages: number, wireBytes: number, totalMs: number, width: number): string {
  const count = `${formatCount(pages)} pages`;
  const text =
    width >= 36
      ? `${count.padStart(width - 22)}${formatBytes(wireBytes).padStart(11)}${formatMs(totalMs).padStart(11)}`
      : `${count}${formatMs(totalMs).padStart(9)}`;
  return text.padStart(width);
}

function hopLines(view: ViewState, most: number): StyledLine[] {
  const shown = view.hops.slice(-Math.max(3, most));
  if (shown.length === 0) return [[span(`${MARGIN}no migration yet`, 'dim')]];
  const total = (view.guest?.settings.roundTrips ?? 0) * 2;
  return shown.map((hop) => [
    span(`${MARGIN}${`${hop.number}/${total}`.padStart(9)} `),
    span(`→ ${hop.to}`.padEnd(14), hop.to),
    span(` ${formatMs(hop.summary.totalMs).padStart(8)}`),
    span(`  down ${formatMs(hop.summary.downtimeMs)}`.padEnd(17), 'dim'),
    span(`${hop.rounds} rounds, ${formatBytes(hop.summary.wireBytes)}`, 'dim'),
  ]);
}

function rates(view: ViewState, width: number): StyledLine[] {
  const { progress } = view;
  const chart = Math.max(8, width - 40);
  // Both rates have one scale, with the bandwidth limit, if any, at full height: the burst of the switchover is not limited.
  const limited = view.guest?.settings.maxBandwidth ?? 0;
  const top = Math.max(...view.dirtyBytesPerSecond, ...(limited > 0 ? [limited] : view.linkBytesPerSecond), 1);
  const limit = view.guest?.settings.downtimeLimitMs ?? 100;
  const predicted = progress?.predictedDowntimeMs ?? view.rounds.at(-1)?.predictedDowntimeMs;
  const actual = view.hops.at(-1)?.summary.downtimeMs;
  const ended = actual !== undefined && view.state === 'completed';
  const shown = ended ? actual : predicted;
  const colour = shown === undefined ? 'dim' : shown <= limit ? 'good' : 'warn';
  const words = shown === undefined ? 'not predicted yet' : `${formatMs(shown)} of ${formatMs(limit)}`;
  const row = (name: string, body: Span[], text: string): StyledLine => [
    span(`${MARGIN}${name.padEnd(10)}`),
    ...body,
    span(`  ${text}`),
  ];
  const rate = (history: readonly number[], now: number) =>
    ended ? `up to ${formatRate(Math.max(...history, 0))}` : formatRate(now);
  return [
    row(
      'dirtied',
      sparkline(view.dirtyBytesPerSecond, chart, top, 'warn'),
      rate(view.dirtyBytesPerSecond, (progress?.dirtyPagesPerSecond ?? 0) * PAGE_SIZE),
    ),
    row(
      'link',
      sparkline(view.linkBytesPerSecond, chart, top, 'link'),
      rate(view.linkBytesPerSecond, progress?.wireBytesPerSecond ?? 0),
    ),
    row(
      'downtime',
      shown === undefined ? bar(0, chart, 'dim') : gauge(shown, limit, limit * 2, chart, colour),
      `${ended ? 'was ' : ''}${words}`,
    ),
  ];
}

/** The guest's console, coloured by the host that printed the line. */
function consoleLines(view: ViewState, width: number, count: number): StyledLine[] {
  const shown = view.phase === 'done' ? crossing(view.console, count) : view.console.slice(-count);
  const title = '─ guest console ';
  const legend = ' source · destination ';
  const rule = Math.max(0, width - MARGIN.length * 2 - title.length - legend.length);
  return [
    [
      span(`${MARGIN}${title}${'─'.repeat(rule)}`, 'dim'),
      span(' source', 'source'),
      span(' · ', 'dim'),
      span('destination', 'destination'),
    ],
    ...Array.from({ length: count }, (_, at): StyledLine => {
      const line = shown[at];
      return line === undefined ? [] : [span(`${MARGIN}▌ `, line.host), span(printable(line.text), line.host)];
    }),
  ];
}

/** The lines around the last move, shown at the end, so that the heartbeat counter is seen to continue. */
function crossing(lines: ViewState['console'], count: number): ViewState['console'] {
  const lastMove = lines.findLastIndex((line, at) => at > 0 && line.host !== lines[at - 1]?.host);
  const start =
    lastMove === -1 ? lines.length - count : Math.min(lastMove - Math.floor(count / 2), lines.length - count);
  return lines.slice(Math.max(0, start)).slice(0, count);
}

/** Replaces control characters, since the guest may print anything. */
function printable(text: string): string {
  return text.replace(/[^\x20-\x7e]/g, '·');
}

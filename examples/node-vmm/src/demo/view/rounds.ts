import type { RoundRecord } from '@godwit/core';
import { formatBytes, formatCount, formatMs } from '../quantity.js';
import { stackedBar } from './chart.js';
import { isFollowed } from './faults.js';
import { type StyledLine, span } from './styled-line.js';
import type { ViewState } from './view-state.js';

const MARGIN = '  ';

/** One bar for each round, as long as its pages relative to the largest round. The current round's bar fills. At most `most` lines. */
export function roundLines(view: ViewState, width: number, most: number): StyledLine[] {
  const largest = Math.max(
    ...view.rounds.map(pagesToSend),
    view.progress?.roundPages ?? 0,
    view.current?.dirtyPages ?? 0,
    1,
  );
  const facts = width >= 100 ? 46 : width >= 76 ? 36 : 21;
  const barWidth = Math.max(4, width - 12 - facts);
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
      span(`${MARGIN}${(isFollowed(view) ? 'following' : `round ${current.round}`).padEnd(9)} `),
      span('█'.repeat(filled), 'raw'),
      span('░'.repeat(columns - filled), 'empty'),
      span(' '.repeat(barWidth - columns)),
      span(`${formatCount(sent)} of ${formatCount(total)}`.padStart(facts), 'plain'),
    ]);
  }
  if (lines.length === 0) return [[span(`${MARGIN}no round yet`, 'dim')]];
  if (lines.length <= most) return lines;
  if (most <= 1) return lines.slice(-1);
  // The first round and the newest ones are shown.
  const hidden = lines.length - most + 1;
  return [...lines.slice(0, 1), [span(`${MARGIN}… ${hidden} more`, 'dim')], ...lines.slice(1 + hidden)];
}

/**
 * The part of the guest that was sent: 1 minus the pages that are owed in this round, divided by those of the largest
 * round.
 */
export function shareMoved(view: ViewState): number {
  const largest = Math.max(...view.rounds.map(pagesToSend), view.current?.dirtyPages ?? 0, 1);
  const { progress } = view;
  if (progress === undefined || (view.current === undefined && view.rounds.length === 0)) return 0;
  const owed = Math.max(0, progress.roundPages - progress.roundPagesSent);
  return Math.max(0, 1 - owed / largest) * (progress.round > 1 ? 1 : 0.9);
}

/** The migrations of a run with several, of which the newest are shown. */
export function hopLines(view: ViewState, most: number): StyledLine[] {
  const shown = view.hops.slice(-Math.max(1, most));
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

function pagesToSend(round: RoundRecord): number {
  const { raw, zero, delta, compressed } = round.pages;
  return raw + zero + delta + compressed;
}

function roundName(round: RoundRecord): string {
  return round.phase === 'stop-and-copy' ? 'final' : `round ${round.round}`;
}

function roundFacts(pages: number, wireBytes: number, totalMs: number, width: number): string {
  const count = `${formatCount(pages)} pages`;
  const text =
    width >= 36
      ? `${count.padStart(width - 22)}${formatBytes(wireBytes).padStart(11)}${formatMs(totalMs).padStart(11)}`
      : `${count}${formatMs(totalMs).padStart(8)}`;
  return text.padStart(width);
}

import type { Progress } from '@godwit/core';
import type { HostName } from '../demo-event.js';
import { formatBytes, formatCount, formatMs, formatRange, formatRate, formatShare } from '../quantity.js';
import { isFollowed } from './faults.js';
import { shareMoved } from './rounds.js';
import { type Colour, type StyledLine, span, spread, widthOf, wrap } from './styled-line.js';
import type { ViewState } from './view-state.js';

const MARGIN = '  ';

/** The description of the guest: one line where there is room. */
export function titleLines(view: ViewState, width: number): StyledLine[] {
  const left = [span('godwit', 'bold'), span(' live migration', 'dim')];
  if (view.guest === undefined) return [spread(left, [span('starting two hosts', 'dim')], width)];
  const { spec, note } = view.guest;
  const facts =
    `${formatBytes(spec.memoryBytes)}, ${spec.kind === 'kvm' ? `${spec.vcpus} vCPU${spec.vcpus === 1 ? '' : 's'} on KVM` : `${spec.vcpus} writers, no KVM`}, ` +
    `${spec.dirtyPagesPerSecond === 0 ? 'flat out' : `${formatCount(spec.dirtyPagesPerSecond)} pages/s`} over ${formatBytes(spec.workingSetBytes)}`;
  const fits = widthOf(left) + facts.length < width;
  return [
    ...(fits ? [spread(left, [span(facts, 'dim')], width)] : [left, ...indented(facts, width, 'dim')]),
    ...(note === undefined ? [] : indented(note, width, 'warn')),
  ];
}

/** `● source ━━━━━━━━▶──────── destination ○`: the part of the guest that was sent. */
export function route(view: ViewState, width: number): StyledLine {
  const from: HostName = view.hop?.from ?? 'source';
  const to: HostName = view.hop?.to ?? 'destination';
  const length = Math.max(4, width - from.length - to.length - 10);
  const isWhole = view.runsAt === to && view.hop !== undefined && !isFollowed(view);
  const share = isWhole ? 1 : shareMoved(view);
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

/** The present phase, the time that it has taken, and the remaining time. */
export function phaseLines(view: ViewState, width: number, nowMs: number): StyledLine[] {
  const { maxBandwidth = 0, postcopyBandwidth = 0 } = view.guest?.settings ?? {};
  const [limit, what] = isFollowed(view) ? [postcopyBandwidth, 'post-copy'] : [maxBandwidth, 'pre-copy'];
  const right = [span(limit === 0 ? '' : `${what} limited to ${formatRate(limit)}`, 'dim')];
  const left = phase(view, nowMs);
  // While pages follow, their limit has a line of its own.
  const below = isFollowed(view) && widthOf(left) + widthOf(right) >= width;
  const more = below && limit > 0 ? indented(right[0]?.text ?? '', width, 'dim') : [];
  if (widthOf(left) <= width) return [spread(left, below ? [] : right, width), ...more];
  const text = left.map((part) => part.text).join('');
  return [...indented(text.trim(), width, left[0]?.colour ?? 'plain'), ...more];
}

/** Text under the left margin, wrapped. */
export function indented(text: string, width: number, colour: Colour): StyledLine[] {
  return wrap(text, width - MARGIN.length, MARGIN.length, colour).map((line) => [span(MARGIN), ...line]);
}

function phase(view: ViewState, nowMs: number): StyledLine {
  const since = formatMs(Math.max(0, nowMs - view.phaseSinceMs));
  switch (view.phase) {
    case 'booting':
      return [span(`${MARGIN}booting the guest`, 'dim'), span(` · ${since}`, 'dim')];
    case 'warming-up':
      return [span(`${MARGIN}warming up: the guest fills its working set`), span(` · ${since}`, 'dim')];
    case 'migrating':
      return [
        span(`${MARGIN}${view.state}`, view.state === 'device' ? 'warn' : 'good'),
        span(` · ${since}${view.state === 'completed' || isFollowed(view) ? '' : leftText(view.progress)}`, 'dim'),
        span(
          view.throttle === 0 ? '' : ` · the guest is held back for ${formatShare(view.throttle)} of its time`,
          'warn',
        ),
      ];
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

/** The remaining time, as an interval where there is one. */
function leftText(
  progress: (Progress & { readonly remainingRangeMs?: readonly [number, number] | undefined }) | undefined,
): string {
  if (progress?.remainingMs === undefined) return '';
  const { remainingMs, remainingRangeMs: range } = progress;
  return range === undefined ? ` · about ${formatMs(remainingMs)} left` : ` · ${formatRange(range)} left`;
}

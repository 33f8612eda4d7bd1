import type { MigrationEvent, MigrationState, Progress, RoundRecord } from '@godwit/core';
import { formatBytes, formatCount, formatMs, formatRange, formatRate, formatShare } from '../demo/quantity.js';
import { PAGE_SIZE } from '../guest/layout.js';

/** The texts for states in which no round runs. */
const STAGES: Partial<Readonly<Record<MigrationState, string>>> = {
  none: 'begins',
  setup: 'the two sides greet each other',
  reconnecting: 'the link is lost; connecting again',
  'pre-switchover': 'paused before the switchover',
  'postcopy-paused': 'the guest runs at the destination and lacks pages; the link is lost, connecting again',
  'postcopy-recover': 'the guest runs at the destination and lacks pages; connecting again',
  settling: 'the link is lost; asking the destination whether it runs the guest',
  completed: 'done',
  failed: 'failed',
  cancelling: 'being cancelled',
  cancelled: 'cancelled',
};

/** In milliseconds; infinity becomes `null` in the JSON of the control socket. */
type Interval = readonly [low: number | null, high: number | null];

/**
 * The progress of a migration in one line: the round and how much of it is sent, the rate, the rest, the downtime if the guest were moved
 * now, and the remaining time. Where the line is longer than `columns`, the intervals are left out.
 *
 * @param range the interval of the predicted downtime, from the last round's record
 */
export function progressText(progress: Progress, range?: Interval, columns = Number.POSITIVE_INFINITY): string {
  const text = atLength(progress, range);
  if (text.length <= columns) return text;
  return atLength({ ...progress, remainingRangeMs: undefined }, undefined);
}

function atLength(progress: Progress, range: Interval | undefined): string {
  const stage = STAGES[progress.state];
  if (stage !== undefined) return stage;
  const { state, round, roundPages, roundPagesSent, wireBytesPerSecond, throttle } = progress;
  const left = Math.max(0, roundPages - roundPagesSent) * PAGE_SIZE;
  const share = roundPages === 0 ? 1 : Math.min(1, roundPagesSent / roundPages);
  if (state === 'postcopy-active') {
    const rate = wireBytesPerSecond > 0 ? `, ${formatRate(wireBytesPerSecond)}` : '';
    return `the guest runs there; ${formatShare(share)} of its missing pages sent${rate}, ${formatBytes(left)} to go`;
  }
  const parts = [
    state === 'device' || state === 'postcopy-device' ? 'switching over' : `round ${round}: ${formatShare(share)}`,
    ...(wireBytesPerSecond > 0 ? [formatRate(wireBytesPerSecond)] : []),
    `${formatBytes(left)} to go`,
    ...(throttle > 0 ? [`guest held back ${formatShare(throttle)}`] : []),
    ...downtime(progress.predictedDowntimeMs, range),
    ...remaining(progress),
  ];
  return parts.join(', ');
}

/** The line of an event that has a line of its own; `undefined` for other events. */
export function eventText(event: MigrationEvent): string | undefined {
  switch (event.type) {
    case 'round':
      return roundText(event.round);
    case 'state':
      return event.state === 'postcopy-active' && event.previous === 'postcopy-device'
        ? 'the guest runs at the destination; its missing pages follow, and until they are there it needs this side'
        : undefined;
    case 'connect-failed':
      return `not connected yet (attempt ${event.attempt}): ${event.reason.message}`;
    case 'link-lost':
      return `the link is lost, connecting again: ${event.reason.message}`;
    case 'reconnected':
      return `connected again after ${formatMs(event.downMs)}${event.restarted ? '; the destination has begun anew' : ''}`;
    case 'free-pages':
      return `${formatCount(event.pages)} pages are free in the guest, and are not sent${event.complete ? '' : ' (it had no time to name all)'}`;
    case 'switchover-start':
      return `the guest is paused for the switchover${event.limitMs > 0 ? `, for at most ${formatMs(event.limitMs)}` : ''}`;
    case 'went-back':
      return `went back: the guest runs on here after ${formatMs(event.elapsedMs)}: ${event.reason.message}`;
    case 'not-prepared':
      return `the destination is not prepared yet, after ${formatMs(event.waitedMs)}; the guest runs on here`;
    case 'throttle':
      return `the guest is held back for ${formatShare(event.fraction)} of its time: ${event.reason}`;
    case 'bandwidth':
      return `at most ${formatRate(event.bytesPerSecond)} now: ${event.reason}`;
    case 'limit-unreachable':
      return `no round can lower the downtime to ${formatMs(event.limitMs)}: what is no memory takes ${formatMs(event.fixedMs)}`;
    case 'downtime-exceeded':
      return `down for ${formatMs(event.downtimeMs)}, longer than ${formatMs(event.limitMs)}: ${event.term}`;
    case 'warning':
      return `warning: ${event.code}: ${event.message}`;
    case 'verified':
      return `${formatCount(event.pages)} pages of both sides compared in ${formatMs(event.verifyMs)}: equal`;
    default:
      return undefined;
  }
}

function roundText(round: RoundRecord): string {
  const { raw, delta, compressed } = round.pages;
  const name = round.phase === 'stop-and-copy' ? 'last round' : `round ${round.round}`;
  const then =
    round.phase === 'stop-and-copy'
      ? ''
      : `; ${formatCount(round.newlyDirtyPages)} pages dirty again, ` +
        `${downtime(round.predictedDowntimeMs, round.predictedDowntimeRangeMs).join('')}`;
  return (
    `${name}: ${formatCount(raw + delta + compressed)} pages, ${formatBytes(round.wireBytes)} in ` +
    `${formatMs(round.totalMs)}${then}`
  );
}

function downtime(predictedMs: number | null | undefined, range: Interval | undefined): readonly string[] {
  if (predictedMs === undefined) return [];
  const interval =
    range === undefined ? '' : ` (${formatRange([range[0] ?? 0, range[1] ?? Number.POSITIVE_INFINITY])})`;
  return [`downtime would be ${formatMs(predictedMs ?? Number.POSITIVE_INFINITY)}${interval}`];
}

function remaining({ remainingMs, remainingRangeMs }: Progress): readonly string[] {
  if (typeof remainingMs !== 'number') return [];
  const high = remainingRangeMs?.[1] as number | null | undefined;
  const interval =
    remainingRangeMs === undefined ? '' : ` (${formatRange([remainingRangeMs[0], high ?? Number.POSITIVE_INFINITY])})`;
  return [`${formatMs(remainingMs)} left${interval}`];
}

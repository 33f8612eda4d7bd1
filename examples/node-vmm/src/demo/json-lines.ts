import type { TimedEvent } from './demo-event.js';

/** One line of `--json`. The last line of a run has nothing in front of its documented keys; the others carry `atMs`. */
export function jsonLine(timed: TimedEvent): string {
  const { atMs, event, ...fields } = timed;
  const last = event === 'completed' || event === 'failed';
  return JSON.stringify(last ? { event, ...fields } : { event, atMs: rounded(atMs), ...fields }, replacer);
}

/** JSON has no infinity (a prediction that does not converge), and nobody needs nanoseconds. */
function replacer(_key: string, value: unknown): unknown {
  if (typeof value !== 'number') return value;
  return Number.isFinite(value) ? rounded(value) : null;
}

function rounded(value: number): number {
  return Math.round(value * 1000) / 1000;
}

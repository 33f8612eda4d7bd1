import type { TimedEvent } from './demo-event.js';

/** One line of `--json`. All but the last line of a run have `atMs` as their second key. */
export function jsonLine(timed: TimedEvent): string {
  const { atMs, event, ...fields } = timed;
  const last = event === 'completed' || event === 'failed';
  return JSON.stringify(last ? { event, ...fields } : { event, atMs: rounded(atMs), ...fields }, replacer);
}

/** Rounds numbers to microseconds, and replaces infinity (a prediction that does not converge), which JSON does not have, by null. */
function replacer(_key: string, value: unknown): unknown {
  if (typeof value !== 'number') return value;
  return Number.isFinite(value) ? rounded(value) : null;
}

function rounded(value: number): number {
  return Math.round(value * 1000) / 1000;
}

import { GodwitError } from './errors.js';

/** Throws `GODWIT_INVALID_ARGUMENT` unless `value` is a finite number of at least 0. */
export function nonNegative(name: string, value: number): number {
  if (Number.isFinite(value) && value >= 0) return value;
  throw new GodwitError('GODWIT_INVALID_ARGUMENT', `${name} must be a number of at least 0, got ${value}`);
}

/** Throws `GODWIT_INVALID_ARGUMENT` for an option that is neither left out nor a number from `least` to `most`. */
export function inRange(name: string, value: number | undefined, least: number, most = Number.POSITIVE_INFINITY): void {
  if (value === undefined || (Number.isFinite(value) && value >= least && value <= most)) return;
  const range = most === Number.POSITIVE_INFINITY ? `of at least ${least}` : `from ${least} to ${most}`;
  throw new GodwitError('GODWIT_INVALID_ARGUMENT', `${name} must be a number ${range}, got ${String(value)}`);
}

import { GodwitError } from './errors.js';

/** Throws `GODWIT_INVALID_ARGUMENT` unless `value` is a finite number of at least 0. */
export function nonNegative(name: string, value: number): number {
  if (Number.isFinite(value) && value >= 0) return value;
  throw new GodwitError('GODWIT_INVALID_ARGUMENT', `${name} must be a number of at least 0, got ${value}`);
}

import type { GodwitError } from '@godwit/core';
import type { Known, KnownRange, PlainError } from './migration-model.js';

/** Longest text that a model takes from outside: reasons and messages of peers, policies and devices. */
const MOST_TEXT = 500;

/** The number for JSON, which has no infinity: `null` if it is not finite. */
export function known(value: number | undefined): Known {
  return value !== undefined && Number.isFinite(value) ? value : null;
}

export function knownRange(range: readonly [number, number] | undefined): KnownRange | null {
  return range === undefined ? null : [known(range[0]), known(range[1])];
}

export function plainError(error: Pick<GodwitError, 'code' | 'message'> | undefined): PlainError | null {
  return error === undefined ? null : { code: error.code, message: shortened(error.message) };
}

export function shortened(text: string): string {
  return text.length > MOST_TEXT ? `${text.slice(0, MOST_TEXT - 3)}...` : text;
}

import { GodwitError, quoted } from '@godwit/core/errors';

/*
 * koffi passes 3.7 to C as 3, and 2^32 + 5 as 5 where C has an `int`: a call would act on another file or range than the given one.
 */

/**
 * Checks a file descriptor, or any other C `int`.
 *
 * @throws GodwitError GODWIT_INVALID_ARGUMENT unless it is a whole number of 32 bits; -1 is passed to the kernel, which returns
 * EBADF
 */
export function intArgument(name: string, value: number): number {
  if ((value | 0) === value) return value;
  throw wrong(name, 'a whole number of 32 bits', value);
}

/**
 * Checks a length, an offset or a count.
 *
 * @throws GodwitError GODWIT_INVALID_ARGUMENT unless it is a whole number from 0 to `most`
 */
export function sizeArgument(name: string, value: number, most = Number.MAX_SAFE_INTEGER): number {
  if (Number.isInteger(value) && value >= 0 && value <= most) return value;
  throw wrong(name, `a whole number from 0 to ${most}`, value);
}

/**
 * Checks the third argument of an ioctl, given as a number.
 *
 * @throws GodwitError GODWIT_INVALID_ARGUMENT unless JavaScript represents it exactly
 */
export function exactArgument(name: string, value: number): number {
  if (Number.isSafeInteger(value)) return value;
  throw wrong(name, 'a whole number below 2^53, or a bigint', value);
}

function wrong(name: string, expected: string, value: unknown): GodwitError {
  return new GodwitError('GODWIT_INVALID_ARGUMENT', `${name} must be ${expected}, got ${quoted(value)}`);
}

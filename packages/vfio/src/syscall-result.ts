import type { ErrorCode } from '@godwit/core';
import { SyscallError } from '@godwit/linux';

/** The code and the advice for an errno that has a special meaning for a call. */
export interface Meaning {
  readonly code?: ErrorCode;
  /** What a person can do about it. */
  readonly advice?: string;
}

/** The meanings of errnos, for one call. */
export type Meanings = Readonly<Record<number, Meaning>>;

/** Returns the result of a call, or throws the `SyscallError` for a negative one. */
export function succeeded(result: number, request: string, asked: string, meanings: Meanings = {}): number {
  if (result >= 0) return result;
  throw new SyscallError(request, -result, asked, meanings[-result] ?? {});
}

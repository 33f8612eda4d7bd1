import type { ErrorCode } from '@godwit/core';
import { SyscallError } from '@godwit/linux';

/** What to make of an errno that has a meaning of its own for a call. */
export interface Meaning {
  readonly code?: ErrorCode;
  /** What to do about it. */
  readonly advice?: string;
}

/** Errno to meaning, for one call. */
export type Meanings = Readonly<Record<number, Meaning>>;

/** Passes the result of a call through, or throws the `SyscallError` that a negative one stands for. */
export function succeeded(result: number, request: string, asked: string, meanings: Meanings = {}): number {
  if (result >= 0) return result;
  throw new SyscallError(request, -result, asked, meanings[-result] ?? {});
}

import { GodwitError } from '@godwit/core';

/** The error of a call whose signal aborted: the signal's own reason if that is a `GodwitError`. */
export function cancelled(signal: AbortSignal, what: string): GodwitError {
  const reason: unknown = signal.reason;
  return GodwitError.is(reason)
    ? reason
    : new GodwitError('GODWIT_CANCELLED', `${what} was cancelled`, { cause: reason });
}

/** Fails at once when `signal` has aborted already. */
export function throwIfCancelled(signal: AbortSignal | undefined, what: string): void {
  if (signal?.aborted === true) throw cancelled(signal, what);
}

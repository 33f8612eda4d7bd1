import { withMethods } from './argument.js';
import { type Clock, systemClock } from './clock.js';
import { localAuthority, type OwnershipAuthority } from './ownership/ownership-authority.js';

/**
 * What an embedder may give to either role that is no number: a part that lacks a method would be noticed only when it is called, with the
 * guest paused. Each function returns the part or its default, and throws `GODWIT_INVALID_ARGUMENT`.
 */
export function authorityOf(authority: OwnershipAuthority | undefined): OwnershipAuthority {
  const what = 'authority must have transfer(), withdraw() and mayRun()';
  return withMethods(what, authority ?? localAuthority, ['transfer', 'withdraw', 'mayRun']);
}

export function clockOf(clock: Clock | undefined): Clock {
  return withMethods('clock must have now(), sleep() and yield()', clock ?? systemClock, ['now', 'sleep', 'yield']);
}

export function checkSignal(signal: AbortSignal | undefined): void {
  if (signal !== undefined) withMethods('signal must be an AbortSignal', signal, ['addEventListener']);
}

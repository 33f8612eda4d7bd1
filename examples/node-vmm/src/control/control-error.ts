import { type ErrorCode, GodwitError } from '@godwit/core';
import type { Whereabouts } from '../vmm/departure.js';

/** An error in the form in which it is sent over the control socket. */
export interface ErrorAnswer {
  readonly code: ErrorCode;
  readonly message: string;
  /** Whether another attempt may succeed. */
  readonly retry: boolean;
  /** The place of the guest, for an error of a migration. */
  readonly guest?: Whereabouts;
}

/** The error of a command that a VMM has refused or that has failed there, or of a VMM that could not be reached. */
export class ControlError extends Error {
  override readonly name = 'ControlError';
  readonly code: ErrorCode;
  readonly retry: boolean;
  readonly guest: Whereabouts | undefined;
  /** False when the VMM gave no answer. */
  readonly answered: boolean;

  constructor({ code, message, retry, guest }: ErrorAnswer, { answered }: { readonly answered: boolean }) {
    super(message);
    this.code = code;
    this.retry = retry;
    this.guest = guest;
    this.answered = answered;
  }
}

/** A failed migration's error, with the place of the guest. */
export class MoveFailed extends Error {
  override readonly name = 'MoveFailed';
  override readonly cause: GodwitError;
  readonly guest: Whereabouts;

  constructor(cause: GodwitError, guest: Whereabouts) {
    super(cause.message);
    this.cause = cause;
    this.guest = guest;
  }
}

export function errorAnswer(error: unknown, command: string): ErrorAnswer {
  if (error instanceof MoveFailed) return { ...errorAnswer(error.cause, command), guest: error.guest };
  const { code, message, retry } = GodwitError.wrap(error, 'GODWIT_INTERNAL', `the VMM failed to ${command}`);
  return { code, message, retry };
}

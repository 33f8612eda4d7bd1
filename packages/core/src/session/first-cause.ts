import type { GodwitError } from '../errors.js';

/**
 * Why a migration ends, once: whatever is noticed first, and everything that is noticed after it is its consequence. One signal that
 * every part of the role is linked to.
 */
export class FirstCause {
  readonly #over = new AbortController();

  /** Aborts at the end, with the first cause. */
  get signal(): AbortSignal {
    return this.#over.signal;
  }

  get cause(): GodwitError | undefined {
    return this.signal.aborted ? (this.signal.reason as GodwitError) : undefined;
  }

  /** The first call counts; returns the cause that does. */
  set(error: GodwitError): GodwitError {
    if (!this.signal.aborted) this.#over.abort(error);
    return this.cause ?? error;
  }
}

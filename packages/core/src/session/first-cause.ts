import type { GodwitError } from '../errors.js';

/**
 * The first cause of a migration's end. Errors noticed later are taken for its consequences and ignored. Its signal ends every
 * part of the role.
 */
export class FirstCause {
  readonly #over = new AbortController();

  /** Aborts at the end, with the first cause. */
  get signal(): AbortSignal {
    return this.#over.signal;
  }

  get cause(): GodwitError | undefined {
    return this.signal.reason as GodwitError | undefined;
  }

  /** Sets the cause, unless one is set already; returns the cause that is set. */
  set(error: GodwitError): GodwitError {
    // A signal that has aborted keeps its reason.
    this.#over.abort(error);
    return this.signal.reason as GodwitError;
  }
}

import { abortable } from '../abortable.js';

/** The embedder's requests to a running migration: `switchOver` and `proceed`. */
export class EmbedderRequests {
  #switchover: { readonly force: boolean } | undefined;
  #wake: () => void = () => {};
  #proceed: (() => void) | undefined;

  /** The requested switchover, until it is tried. */
  get switchover(): { readonly force: boolean } | undefined {
    return this.#switchover;
  }

  /** Requests a switchover: the next decision does not ask the policy. */
  switchOver(force: boolean): void {
    this.#switchover = { force: force || (this.#switchover?.force ?? false) };
    this.#wake();
  }

  /** Forgets the requested switchover: it is being tried. */
  taken(): void {
    this.#switchover = undefined;
  }

  /** Resolves when a switchover is requested. */
  asked(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }

  /** True while the migration waits for `proceed`. */
  get held(): boolean {
    return this.#proceed !== undefined;
  }

  proceed(): void {
    this.#proceed?.();
  }

  /** Calls `onHeld`, which tells the embedder, and resolves at `proceed`. Rejects when `signal` aborts. */
  async hold(signal: AbortSignal, onHeld: () => void): Promise<void> {
    const proceeding = new Promise<void>((resolve) => {
      this.#proceed = resolve;
    });
    try {
      // A subscriber may call `proceed` or `cancel` in this call.
      onHeld();
      await abortable(proceeding, signal);
    } finally {
      this.#proceed = undefined;
    }
  }
}

import { abortable } from '../abortable.js';

/** What an embedder asks of a running migration: `switchOver` and `proceed`. */
export class Wishes {
  #switchover: { readonly force: boolean } | undefined;
  #wake: () => void = () => {};
  #proceed: (() => void) | undefined;

  /** Whether a switchover was asked for that has not been tried. */
  get switchover(): { readonly force: boolean } | undefined {
    return this.#switchover;
  }

  /** The next decision is to switch over, whatever the policy thinks. */
  switchOver(force: boolean): void {
    this.#switchover = { force: force || (this.#switchover?.force ?? false) };
    this.#wake();
  }

  /** The switchover that was asked for is being tried. */
  taken(): void {
    this.#switchover = undefined;
  }

  /** Resolves when a switchover is asked for. */
  asked(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }

  /** True while `proceed` has somebody to let go on. */
  get held(): boolean {
    return this.#proceed !== undefined;
  }

  proceed(): void {
    this.#proceed?.();
  }

  /** Waits for `proceed`, from the call of `onHeld` on, which tells the embedder. */
  async hold(signal: AbortSignal, onHeld: () => void): Promise<void> {
    const proceeding = new Promise<void>((resolve) => {
      this.#proceed = resolve;
    });
    try {
      // Whoever hears of it may proceed, or cancel, at once.
      onHeld();
      await abortable(proceeding, signal);
    } finally {
      this.#proceed = undefined;
    }
  }
}

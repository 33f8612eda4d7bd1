import { abortable } from '../abortable.js';

/** What an embedder asks of a running migration: `switchOver`, `adjust` and `proceed`. */
export class Wishes {
  #switchover: { readonly force: boolean } | undefined;
  /** Those who wait for something to be asked. */
  readonly #wake = new Set<() => void>();
  #proceed: (() => void) | undefined;

  /** Whether a switchover was asked for that has not been tried. */
  get switchover(): { readonly force: boolean } | undefined {
    return this.#switchover;
  }

  /** The next decision is to switch over, whatever the policy thinks. */
  switchOver(force: boolean): void {
    this.#switchover = { force: force || (this.#switchover?.force ?? false) };
    this.#wakeAll();
  }

  /** A limit was changed: what was decided with the old one is decided anew. */
  adjusted(): void {
    this.#wakeAll();
  }

  /** The switchover that was asked for is being tried. */
  taken(): void {
    this.#switchover = undefined;
  }

  /** Resolves when a switchover is asked for or a limit changed, or when `signal` aborts. */
  asked(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        this.#wake.delete(done);
        signal.removeEventListener('abort', done);
        resolve();
      };
      if (signal.aborted) {
        resolve();
        return;
      }
      this.#wake.add(done);
      signal.addEventListener('abort', done, { once: true });
    });
  }

  #wakeAll(): void {
    for (const wake of [...this.#wake]) wake();
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

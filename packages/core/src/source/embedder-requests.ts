import { abortable } from '../abortable.js';

/** A switchover that was asked for. */
export interface RequestedSwitchover {
  readonly force: boolean;
  readonly postcopy: boolean;
}

/** The requests of an embedder to a running migration: `switchOver`, `startPostcopy`, `adjust` and `proceed`. */
export class EmbedderRequests {
  #switchover: RequestedSwitchover | undefined;
  /** Wakes the calls that wait for a request. */
  readonly #wake = new Set<() => void>();
  #proceed: (() => void) | undefined;

  /** The requested switchover, until it is attempted. */
  get switchover(): RequestedSwitchover | undefined {
    return this.#switchover;
  }

  /** Requests a switchover: the next decision does not ask the policy. */
  switchOver(force: boolean): void {
    this.#switchover = {
      force: force || (this.#switchover?.force ?? false),
      postcopy: this.#switchover?.postcopy ?? false,
    };
    this.#wakeAll();
  }

  /** Requests a switchover by post-copy. */
  startPostcopy(): void {
    this.#switchover = { force: this.#switchover?.force ?? false, postcopy: true };
    this.#wakeAll();
  }

  /** Notes that a limit was changed, so that the decision is made again. */
  adjusted(): void {
    this.#wakeAll();
  }

  /** Forgets the requested switchover, which is being attempted. */
  taken(): void {
    this.#switchover = undefined;
  }

  /** Resolves when a switchover is requested or a limit changed, or when `signal` aborts. */
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

  /** True while a switchover waits for `proceed`. */
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

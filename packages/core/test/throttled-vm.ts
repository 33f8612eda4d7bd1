import type { ThrottleOptions } from '@godwit/core';
import { ToyVm } from '@godwit/core/testing';

export interface ThrottleCall extends ThrottleOptions {
  readonly fraction: number;
  /** Whether the guest was running, as far as the VM knew. */
  readonly running: boolean;
}

/** A toy VM whose vCPUs can be held back: it remembers how, and checks that the engine keeps the contract. */
export class ThrottledVm extends ToyVm {
  readonly calls: ThrottleCall[] = [];
  /** Breaches of the contract. */
  readonly breaches: string[] = [];
  /** Called for each call; may throw. */
  onThrottle: (fraction: number) => void = () => {};
  #pending = 0;

  /** The fraction in force. */
  get fraction(): number {
    return this.calls.at(-1)?.fraction ?? 0;
  }

  throttle(fraction: number, options: ThrottleOptions): void {
    if (this.#pending > 0) this.breaches.push(`throttle(${fraction}) while pause or resume is pending`);
    if (!(options.longestMs >= 1)) this.breaches.push(`longestMs ${options.longestMs}`);
    this.onThrottle(fraction);
    this.calls.push({ fraction, ...options, running: this.running });
  }

  override pause(): Promise<void> {
    return this.#during(() => super.pause());
  }

  override resume(): Promise<void> {
    return this.#during(() => super.resume());
  }

  async #during(work: () => Promise<void>): Promise<void> {
    this.#pending++;
    try {
      await work();
    } finally {
      this.#pending--;
    }
  }
}

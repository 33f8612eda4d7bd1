import type { Clock } from '../clock.js';

/**
 * A token bucket over wire bytes. Bytes are charged after they were sent (only then is their encoded size known), and
 * the next batch waits until the debt is paid: over any second the average is the limit, plus one batch.
 */
export class BandwidthLimit {
  readonly #clock: Clock;
  #bytesPerSecond: number;
  #balance = 0;
  #at: number;

  /** `bytesPerSecond` of 0 means no limit. */
  constructor(clock: Clock, bytesPerSecond: number) {
    this.#clock = clock;
    this.#bytesPerSecond = bytesPerSecond;
    this.#at = clock.now();
  }

  get bytesPerSecond(): number {
    return this.#bytesPerSecond;
  }

  /** Takes effect from the next batch; debts at the old rate are forgiven. */
  set bytesPerSecond(value: number) {
    this.#bytesPerSecond = value;
    this.#balance = 0;
    this.#at = this.#clock.now();
  }

  /** `bytes` were sent; less than 0 when fewer were than was charged before. */
  charge(bytes: number): void {
    if (this.#bytesPerSecond === 0) return;
    // First the time that has passed: it pays for what was sent before, never for what comes now.
    this.#refill();
    this.#balance -= bytes;
  }

  /** True when the next batch may go at once; then `wait` need not be called. */
  get open(): boolean {
    if (this.#bytesPerSecond === 0) return true;
    this.#refill();
    return this.#balance >= 0;
  }

  /** Resolves when the next batch may go. Sleeps at most 100 ms at a time, so that a new limit is soon felt. */
  async wait(signal: AbortSignal): Promise<void> {
    while (!this.open) {
      const ms = (-this.#balance / this.#bytesPerSecond) * 1000;
      await this.#clock.sleep(Math.min(100, Math.max(1, ms)), signal);
    }
  }

  #refill(): void {
    const now = this.#clock.now();
    this.#balance = Math.min(0, this.#balance + ((now - this.#at) / 1000) * this.#bytesPerSecond);
    this.#at = now;
  }
}

import type { Clock } from '../clock.js';

/**
 * What may go out in one piece: the limit's share of this many milliseconds. Long enough that a burst shows what the
 * link could do without the limit, and that sleeping costs few wake-ups; short enough to be smooth.
 */
const BURST_MS = 50;

/**
 * A token bucket over wire bytes. Bytes are charged after they were sent (only then is their encoded size known). Once
 * there is a debt, the next batch waits until it is paid and a whole burst is saved up: over any second the average is
 * the limit, plus one burst and one batch.
 */
export class BandwidthLimit {
  readonly #clock: Clock;
  #bytesPerSecond: number;
  #balance = 0;
  /** There was a debt, and there is not a whole burst yet. */
  #saving = false;
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
    this.#saving = false;
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
    if (this.#balance < 0) this.#saving = true;
    else if (this.#balance >= this.#burst) this.#saving = false;
    return !this.#saving;
  }

  /** Resolves when the next batch may go. Sleeps at most 100 ms at a time, so that a new limit is soon felt. */
  async wait(signal: AbortSignal): Promise<void> {
    while (!this.open) {
      const ms = ((this.#burst - this.#balance) / this.#bytesPerSecond) * 1000;
      await this.#clock.sleep(Math.min(100, Math.max(1, ms)), signal);
    }
  }

  get #burst(): number {
    return (this.#bytesPerSecond * BURST_MS) / 1000;
  }

  #refill(): void {
    const now = this.#clock.now();
    this.#balance = Math.min(this.#burst, this.#balance + ((now - this.#at) / 1000) * this.#bytesPerSecond);
    this.#at = now;
  }
}

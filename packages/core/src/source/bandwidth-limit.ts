import type { Clock } from '../clock.js';

/**
 * The length of a burst: the limit's bytes for this many milliseconds are sent without a pause. Long enough that a burst shows the
 * rate of the link without the limit, and that the sender wakes up rarely; short enough to be smooth.
 */
const BURST_MS = 50;

/**
 * A token bucket over wire bytes. Bytes are charged after they were sent (only then is their encoded size known). Once the balance
 * is negative, the next batch waits until there is a whole burst: in any second at most the limit, one burst and one batch are sent.
 */
export class BandwidthLimit {
  readonly #clock: Clock;
  #bytesPerSecond: number;
  #balance = 0;
  /** The balance was negative, and is not a whole burst yet. */
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

  /** The bytes of a burst. */
  get burstBytes(): number {
    return this.#burst;
  }

  /** Takes effect from the next batch; the balance begins at 0 again. */
  set bytesPerSecond(value: number) {
    this.#bytesPerSecond = value;
    this.#balance = 0;
    this.#saving = false;
    this.#at = this.#clock.now();
  }

  /** Charges `bytes` that were sent. Negative to correct an earlier charge that was too high. */
  charge(bytes: number): void {
    if (this.#bytesPerSecond === 0) return;
    // The refill comes first: the time that has passed pays for bytes sent before, not for these.
    this.#refill();
    this.#balance -= bytes;
  }

  /** True when the next batch may be sent at once; then `wait` need not be called. */
  get open(): boolean {
    if (this.#bytesPerSecond === 0) return true;
    this.#refill();
    if (this.#balance < 0) this.#saving = true;
    else if (this.#balance >= this.#burst) this.#saving = false;
    return !this.#saving;
  }

  /** Resolves when the next batch may be sent. Sleeps at most 100 ms at a time, so that a new limit soon takes effect. */
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

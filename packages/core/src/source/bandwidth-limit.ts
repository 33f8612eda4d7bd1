import type { Clock } from '../clock.js';

/**
 * The length of a burst: the limit's bytes for this many milliseconds are sent without a pause. The time is long enough that a burst
 * shows the rate of the link without the limit and that the sender rarely wakes up, and short enough for a steady rate.
 */
const BURST_MS = 50;

/** Bytes that may be written at once under any limit: fewer bytes would be mostly framing, and would not show the link's rate. */
const LEAST_BYTES = 256 * 1024;

/**
 * The length of a burst of pages that are sent while the guest runs at the destination: short, since the guest's requests wait for a
 * burst under way.
 */
const SMOOTH_BURST_MS = 4;
const SMOOTH_LEAST_BYTES = 64 * 1024;

/**
 * A token bucket over the wire bytes of all streams: pages, device state and control frames. Bytes are charged after they were sent
 * (their encoded size is known only then). Once the balance is negative, the next write waits until the balance is a whole burst: in
 * any second at most the limit, one burst and one write of each sender are sent.
 */
export class BandwidthLimit {
  readonly #clock: Clock;
  readonly #carried: () => number;
  #bytesPerSecond: number;
  #balance = 0;
  /** True while the balance was negative and is not a whole burst yet. */
  #saving = false;
  #at: number;
  /** The carried bytes that were charged so far. */
  #charged: number;
  #waiting = 0;
  #waitingSince = 0;
  #waitedMs = 0;

  /** `bytesPerSecond` of 0 means no limit. `carried` returns the bytes that were written so far, or are being written. */
  constructor(clock: Clock, bytesPerSecond: number, carried: () => number = () => 0) {
    this.#clock = clock;
    this.#carried = carried;
    this.#bytesPerSecond = bytesPerSecond;
    this.#charged = carried();
    this.#at = clock.now();
  }

  get bytesPerSecond(): number {
    return this.#bytesPerSecond;
  }

  /** The bytes of a burst. */
  get burstBytes(): number {
    return this.#burst;
  }

  /** Takes effect from the next write; the balance begins at 0 again. */
  set bytesPerSecond(value: number) {
    this.#bytesPerSecond = value;
    this.restart();
    this.onChange?.();
  }

  /** True for short bursts (`SMOOTH_BURST_MS`). */
  smooth = false;

  /** Called when another limit was set. */
  onChange: (() => void) | undefined;

  /** Sets the balance to 0, so that bytes that were sent while the guest was paused do not delay later ones. */
  restart(): void {
    this.#balance = 0;
    this.#saving = false;
    this.#at = this.#clock.now();
    this.#charged = this.#carried();
  }

  /** The most bytes to write at once: smaller writes keep to the limit more smoothly. Infinite without a limit. */
  get most(): number {
    const least = this.smooth ? SMOOTH_LEAST_BYTES : LEAST_BYTES;
    return this.#bytesPerSecond === 0 ? Number.POSITIVE_INFINITY : Math.max(least, this.#burst);
  }

  /**
   * Milliseconds until more may be sent. Negative while more may be sent: minus the time that the bytes that may be sent at once take.
   */
  get debtMs(): number {
    if (this.#bytesPerSecond === 0) return 0;
    // Reading changes nothing: a snapshot of the progress must not move the refill.
    const elapsedMs = this.#clock.now() - this.#at;
    const refilled = Math.min(this.#burst, this.#balance + (elapsedMs / 1000) * this.#bytesPerSecond);
    const balance = refilled - (this.#carried() - this.#charged);
    const waits = balance < 0 || (this.#saving && balance < this.#burst);
    return (((waits ? this.#burst : 0) - balance) / this.#bytesPerSecond) * 1000;
  }

  /** Milliseconds in which a sender waited for the limit. */
  get waitedMs(): number {
    return this.#waitedMs + (this.#waiting > 0 ? this.#clock.now() - this.#waitingSince : 0);
  }

  /** Charges `bytes` that were sent. Negative to correct an earlier charge that was too high. */
  charge(bytes: number): void {
    if (this.#bytesPerSecond === 0) return;
    // The refill comes first: the time that has passed pays for earlier bytes, not for these.
    this.#refill();
    this.#balance -= bytes;
  }

  /** True when the next write may go at once; then `wait` need not be called. Charges what was carried since the last call. */
  get open(): boolean {
    if (this.#bytesPerSecond === 0) return true;
    const carried = this.#carried();
    this.charge(carried - this.#charged);
    this.#charged = carried;
    if (this.#balance < 0) this.#saving = true;
    else if (this.#balance >= this.#burst) this.#saving = false;
    return !this.#saving;
  }

  /** Resolves when the next write may go. Sleeps at most 100 ms at a time, so that a new limit soon takes effect. */
  async wait(signal: AbortSignal): Promise<void> {
    if (this.#waiting++ === 0) this.#waitingSince = this.#clock.now();
    try {
      while (!this.open) {
        const ms = ((this.#burst - this.#balance) / this.#bytesPerSecond) * 1000;
        await this.#clock.sleep(Math.min(100, Math.max(1, ms)), signal);
      }
    } finally {
      if (--this.#waiting === 0) this.#waitedMs += this.#clock.now() - this.#waitingSince;
    }
  }

  get #burst(): number {
    return (this.#bytesPerSecond * (this.smooth ? SMOOTH_BURST_MS : BURST_MS)) / 1000;
  }

  #refill(): void {
    const now = this.#clock.now();
    this.#balance = Math.min(this.#burst, this.#balance + ((now - this.#at) / 1000) * this.#bytesPerSecond);
    this.#at = now;
  }
}

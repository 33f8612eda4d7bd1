import type { Clock } from '../clock.js';

/** One direction of a network link: bytes take their time one after the other, whichever stream they belong to. */
export class SimulatedWire {
  readonly #clock: Clock;
  readonly #bytesPerSecond: number;
  readonly latencyMs: number;
  #busyUntil = 0;

  /** `bytesPerSecond` of 0: no time at all. */
  constructor(clock: Clock, bytesPerSecond: number, latencyMs: number) {
    this.#clock = clock;
    this.#bytesPerSecond = bytesPerSecond;
    this.latencyMs = latencyMs;
  }

  /** Resolves when the last byte has left. Rejects when the stream is dropped before. */
  async carry(bytes: number, dropped: AbortSignal): Promise<void> {
    dropped.throwIfAborted();
    if (this.#bytesPerSecond === 0) return;
    const now = this.#clock.now();
    this.#busyUntil = Math.max(now, this.#busyUntil) + (bytes / this.#bytesPerSecond) * 1000;
    await this.#clock.sleep(this.#busyUntil - now, dropped);
  }

  /** Resolves when what leaves now is at the other end. */
  travel(): Promise<void> {
    return this.#clock.sleep(this.latencyMs);
  }
}

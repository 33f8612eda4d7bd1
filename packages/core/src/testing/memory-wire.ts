import type { Clock } from '../clock.js';

/** One direction of a simulated network link: the bytes of all its streams are sent one after the other. */
export class MemoryWire {
  readonly #clock: Clock;
  readonly #bytesPerSecond: number;
  readonly latencyMs: number;
  #busyUntil = 0;

  /** `bytesPerSecond` of 0 means that sending takes no time. */
  constructor(clock: Clock, bytesPerSecond: number, latencyMs: number) {
    this.#clock = clock;
    this.#bytesPerSecond = bytesPerSecond;
    this.latencyMs = latencyMs;
  }

  /** Resolves when the last byte has left. Rejects when the stream is dropped before that. */
  async carry(bytes: number, dropped: AbortSignal): Promise<void> {
    dropped.throwIfAborted();
    if (this.#bytesPerSecond === 0) return;
    const now = this.#clock.now();
    this.#busyUntil = Math.max(now, this.#busyUntil) + (bytes / this.#bytesPerSecond) * 1000;
    await this.#clock.sleep(this.#busyUntil - now, dropped);
  }

  /** Resolves when a byte that is sent now has arrived. */
  travel(): Promise<void> {
    return this.#clock.sleep(this.latencyMs);
  }
}

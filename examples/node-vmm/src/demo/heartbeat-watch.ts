import { type HeartbeatLine, HeartbeatMonitor, parseGuestLine } from '../guest/heartbeat.js';
import type { ConsoleLine } from './console-lines.js';
import type { HostName } from './demo-event.js';

/**
 * Follows the guest's console lines across hosts. It reports a heartbeat whose number is not one higher than the last, a clock that
 * goes back, and defects that the guest reports: each means that console output or guest state was lost, repeated or stale.
 */
export class HeartbeatWatch {
  readonly #onDefect: (message: string) => void;
  readonly #monitor = new HeartbeatMonitor();
  #beats = 0;
  #waiters: { readonly done: (beat: HeartbeatLine) => boolean; readonly resolve: () => void }[] = [];
  /** Heartbeats still to come that count for the gap of the last switchover, and the longest stall among them. */
  #gap = { host: undefined as HostName | undefined, beatsLeft: 0, longestMs: 0 };

  constructor(onDefect: (message: string) => void) {
    this.#onDefect = onDefect;
  }

  /** Number of heartbeats so far. */
  get beats(): number {
    return this.#beats;
  }

  get last(): HeartbeatLine | undefined {
    return this.#monitor.last;
  }

  /** Handles a console line; returns the heartbeat, if the line is one. */
  see({ host, text }: ConsoleLine): HeartbeatLine | undefined {
    const line = parseGuestLine(text);
    if (line.type === 'defect') this.#onDefect(text);
    if (line.type !== 'heartbeat') return undefined;
    const wrong = this.#monitor.observe(line);
    if (wrong !== undefined) this.#onDefect(wrong);
    this.#beats++;
    if (host === this.#gap.host && this.#gap.beatsLeft > 0) {
      this.#gap.beatsLeft--;
      this.#gap.longestMs = Math.max(this.#gap.longestMs, line.stall / 1000);
    }
    const waiting = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiting) {
      if (waiter.done(line)) waiter.resolve();
      else this.#waiters.push(waiter);
    }
    return line;
  }

  /**
   * Measures the gap of a move to `host` from its first two heartbeats there: the line of the first may have been composed before the
   * move and printed after it.
   */
  expectGapAt(host: HostName): void {
    this.#gap = { host, beatsLeft: 2, longestMs: 0 };
  }

  /** The longest stall by the guest's clock across the switchover, in milliseconds; `undefined` until both heartbeats have come. */
  get gapMs(): number | undefined {
    return this.#gap.beatsLeft === 0 ? this.#gap.longestMs : undefined;
  }

  /**
   * Resolves with true at the first heartbeat from now on that satisfies `done`, and with false after `timeoutMs` or when aborted.
   */
  until(done: (beat: HeartbeatLine) => boolean, timeoutMs: number, signal: AbortSignal): Promise<boolean> {
    return new Promise((resolve) => {
      const finish = (value: boolean) => {
        clearTimeout(timer);
        signal.removeEventListener('abort', onAbort);
        this.#waiters = this.#waiters.filter((other) => other !== waiter);
        resolve(value);
      };
      const onAbort = () => finish(false);
      const waiter = { done, resolve: () => finish(true) };
      const timer = setTimeout(() => finish(false), timeoutMs);
      signal.addEventListener('abort', onAbort, { once: true });
      if (signal.aborted) finish(false);
      else this.#waiters.push(waiter);
    });
  }
}

import type { ConsoleLine } from './console-lines.js';
import type { HostName } from './demo-event.js';

/** What the guest's heartbeat says that the demo needs; times by the guest's own clock. */
export interface Beat {
  /** From 1, and one more each time. */
  readonly count: number;
  /** Longest stretch since the last heartbeat in which the guest did not run. */
  readonly stallMs: number;
  /** Page writes so far, of all vCPUs. */
  readonly writes: number;
}

export type BeatParser = (line: string) => Beat | undefined;

/**
 * Follows the guest's heartbeat across hosts. A counter that does not go on by exactly one means that console output or
 * a piece of the guest's memory was lost, repeated or old.
 */
export class HeartbeatWatch {
  readonly #parse: BeatParser;
  readonly #onDefect: (message: string) => void;
  #last: Beat | undefined;
  #beats = 0;
  #waiters: { readonly done: (beat: Beat) => boolean; readonly resolve: () => void }[] = [];
  /** Beats still to look at for the gap of the last switchover, and the longest stall among them. */
  #gap = { host: undefined as HostName | undefined, beatsLeft: 0, longestMs: 0 };

  constructor(parse: BeatParser, onDefect: (message: string) => void) {
    this.#parse = parse;
    this.#onDefect = onDefect;
  }

  get beats(): number {
    return this.#beats;
  }

  get last(): Beat | undefined {
    return this.#last;
  }

  /** Returns the beat that the line is, if it is one. */
  see(line: ConsoleLine): Beat | undefined {
    const beat = this.#parse(line.text);
    if (beat === undefined) return undefined;
    const expected = this.#last === undefined ? beat.count : this.#last.count + 1;
    if (beat.count !== expected) this.#onDefect(`heartbeat ${expected} was expected and ${beat.count} came`);
    this.#last = beat;
    this.#beats++;
    if (line.host === this.#gap.host && this.#gap.beatsLeft > 0) {
      this.#gap.beatsLeft--;
      this.#gap.longestMs = Math.max(this.#gap.longestMs, beat.stallMs);
    }
    const waiting = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiting) {
      if (waiter.done(beat)) waiter.resolve();
      else this.#waiters.push(waiter);
    }
    return beat;
  }

  /**
   * The guest is about to move to `host`. Two beats are looked at there: the line of the first may have been worded
   * before the move and printed after it.
   */
  expectGapAt(host: HostName): void {
    this.#gap = { host, beatsLeft: 2, longestMs: 0 };
  }

  /** The longest stall that the guest's clock saw across the switchover; `undefined` until it has told. */
  get gapMs(): number | undefined {
    return this.#gap.beatsLeft === 0 ? this.#gap.longestMs : undefined;
  }

  /** Resolves true at a beat that satisfies `done` (looked at from the next beat on), false after `timeoutMs` or when aborted. */
  until(done: (beat: Beat) => boolean, timeoutMs: number, signal: AbortSignal): Promise<boolean> {
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

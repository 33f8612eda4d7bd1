import {
  type Frame,
  type FrameName,
  type FrameStream,
  type GodwitError,
  RESUMED_STATES,
  type ReceivedFrame,
} from '@godwit/core';
import type { Decisions } from './decisions.js';
import { EXAMPLE_WELCOME, exampleAnswers, INCARNATION } from './example-frames.js';
import { nextTurn } from './hostile-requests.js';
import { Judge } from './judge.js';

/**
 * Questions that this destination may leave unanswered, and the odds of that out of 256. The source then gives up its
 * stop-and-copy after a while. `prepare` comes with every round.
 */
const SILENCE: Partial<Record<FrameName, number>> = { switchover: 24, digestsEnd: 24, prepare: 2 };

/** A destination's end of the control stream, which answers correctly except where its input says otherwise. */
export class HostileDestination implements FrameStream {
  readonly bytesWritten = 0;
  readonly bytesRead = 0;
  readonly judge = new Judge('destination');
  /** Whether the source has written `go`. */
  gone = false;
  /** Set if the source wrote `go` for an attempt for which this end had not written `ready`. */
  goUnasked: string | undefined;
  #ready: number | undefined;
  readonly #decisions: Decisions;
  readonly #answers: (ReceivedFrame | null)[] = [];
  readonly #pages = new Map<number, number>();
  #reader: { resolve(received: ReceivedFrame | null): void; reject(error: GodwitError): void } | undefined;
  #aborted: GodwitError | undefined;
  #ended = false;
  #asked = 0;

  constructor(decisions: Decisions) {
    this.#decisions = decisions;
  }

  /** Counts pages that came on a page channel. */
  took(round: number, pages: number): void {
    this.#pages.set(round, (this.#pages.get(round) ?? 0) + pages);
  }

  async write(frame: Frame): Promise<void> {
    if (this.#aborted !== undefined) throw this.#aborted;
    this.judge.written(frame);
    if (frame.type === 'go') {
      this.gone = true;
      if (frame.attempt !== this.#ready) this.goUnasked ??= `go ${frame.attempt}, ready ${this.#ready}`;
    }
    if (frame.type === 'back' && frame.attempt === this.#ready) this.#ready = undefined;
    if ('runs' in frame && 'round' in frame) {
      for (let i = 1; i < frame.runs.length; i += 2) this.took(frame.round, frame.runs[i] as number);
    }
    // Gives the guest time to wait for pages.
    if (frame.type === 'roundEnd' && this.gone) for (let turn = 0; turn < 8; turn++) await nextTurn();
    const answer = this.#answerTo(frame);
    const decisions = this.#decisions;
    if (decisions.odds(12)) this.#push(this.#twisted(decisions.pick(exampleAnswers())));
    if (answer === undefined) return;
    if (decisions.odds(SILENCE[frame.type] ?? 0)) return;
    if (++this.#asked > 60 || decisions.odds(4)) {
      this.#end();
    } else if (decisions.odds(24)) {
      // Wrong answers are tested here; a peer that never answers is a matter of timeouts, which other tests have.
      this.#push(this.#twisted(decisions.odds(128) ? answer : decisions.pick(exampleAnswers())));
      this.#end();
    } else {
      this.#push(answer);
      // By post-copy, the round after `go` has all missing pages.
      if (frame.type === 'roundEnd' && this.gone) this.#push({ type: 'whole' });
    }
  }

  read(): Promise<ReceivedFrame | null> {
    this.judge.settled();
    if (this.#aborted !== undefined) return Promise.reject(this.#aborted);
    const next = this.#answers.shift();
    if (next !== undefined) return Promise.resolve(next === null ? null : this.#handed(next));
    return new Promise((resolve, reject) => {
      this.#reader = { resolve, reject };
    });
  }

  async readPayload(): Promise<void> {}
  async skipPayload(): Promise<void> {}

  async close(): Promise<void> {
    this.#end();
  }

  abort(reason: GodwitError): void {
    this.#aborted ??= reason;
    this.#reader?.reject(this.#aborted);
    this.#reader = undefined;
  }

  #answerTo(frame: Frame): Frame | undefined {
    switch (frame.type) {
      case 'hello':
        return { ...EXAMPLE_WELCOME, features: frame.features };
      case 'ping':
        return { type: 'pong', id: frame.id };
      case 'roundEnd':
        return { type: 'roundAck', round: frame.round, pages: this.#pages.get(frame.round) ?? 0 };
      case 'device':
        if (frame.attempt > 0) return undefined;
        return { type: 'loaded', device: frame.device, sequence: frame.sequence + 1 };
      case 'prepare':
        return { ...frame, type: 'prepared', incarnation: INCARNATION };
      case 'switchover':
        return { type: 'ready', attempt: frame.attempt, loadMs: 1 };
      case 'back':
        return { type: 'backAck', attempt: frame.attempt, deviceResets: [0, 0] };
      case 'digestsEnd':
        return { type: 'verified', pagesCompared: 13, pagesDifferent: 0, differences: [] };
      case 'go':
        return { type: 'running', resumeMs: 1, sinceReadyMs: 1 };
      default:
        return undefined;
    }
  }

  #push(frame: Frame): void {
    if (this.#ended) return;
    const received = { frame, payloadBytes: this.#decisions.odds(4) ? 1 + this.#decisions.byte() : 0 };
    const reader = this.#reader;
    this.#reader = undefined;
    if (reader === undefined) this.#answers.push(received);
    else reader.resolve(this.#handed(received));
  }

  #handed(received: ReceivedFrame): ReceivedFrame {
    const { frame } = received;
    this.judge.handed(frame);
    if (frame.type === 'ready') this.#ready = frame.attempt;
    return received;
  }

  #end(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#answers.push(null, null, null);
    const reader = this.#reader;
    this.#reader = undefined;
    reader?.resolve(null);
  }

  #twisted(frame: Frame): Frame {
    const copy: Record<string, unknown> = { ...frame };
    for (const [key, value] of Object.entries(copy)) {
      if (key === 'state' && this.#decisions.odds(64)) copy[key] = this.#decisions.pick(RESUMED_STATES);
      if (typeof value !== 'number') continue;
      const changed = this.#decisions.number(value);
      // A frame stream ensures that durations are fractions or whole numbers, all other numbers whole, and none negative.
      if (changed >= 0 && (key.endsWith('Ms') || Number.isSafeInteger(changed))) copy[key] = changed;
    }
    return copy as unknown as Frame;
  }
}

import type { Frame, FrameStream, GodwitError, ReceivedFrame } from '@godwit/core';
import type { Decisions } from './decisions.js';

const ANSWERS: readonly Frame[] = [
  {
    type: 'welcome',
    version: 2,
    features: [],
    software: 'fuzz',
    maximumPayload: 2 ** 20,
    incarnation: '1'.repeat(32),
    maximumDeviceState: 2 ** 28,
  },
  { type: 'pong', id: 1 },
  { type: 'ping', id: 1 },
  { type: 'roundAck', round: 1, pages: 0 },
  { type: 'ready', attempt: 1, loadMs: 1 },
  { type: 'verified', pagesCompared: 13, pagesDifferent: 0, differences: [] },
  { type: 'running', resumeMs: 1, sinceReadyMs: 0 },
  { type: 'error', code: 'GODWIT_DEVICE_FAILED', message: 'fuzz', retry: false },
  { type: 'error', code: 'NONSENSE', message: '', retry: false },
  { type: 'go', attempt: 1 },
  { type: 'received', block: 0, runs: [0, 2] },
  {
    type: 'resumed',
    state: 'receiving',
    round: 1,
    deviceSequences: [0],
    deviceResets: [],
    incarnation: '1'.repeat(32),
    resumeMs: 0,
    sinceReadyMs: 0,
  },
  {
    type: 'resumed',
    state: 'running',
    round: 1,
    deviceSequences: [],
    deviceResets: [],
    incarnation: '1'.repeat(32),
    resumeMs: 0,
    sinceReadyMs: 0,
  },
];

/** A destination's end of the control stream: answers as one should, except where its input says otherwise. */
export class HostileDestination implements FrameStream {
  readonly bytesWritten = 0;
  readonly bytesRead = 0;
  /** Whether `go` was written to it. */
  gone = false;
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
    if (frame.type === 'go') this.gone = true;
    if ('runs' in frame && 'round' in frame) {
      for (let i = 1; i < frame.runs.length; i += 2) this.took(frame.round, frame.runs[i] as number);
    }
    const answer = this.#answerTo(frame);
    const decisions = this.#decisions;
    if (decisions.odds(12)) this.#push(this.#twisted(decisions.pick(ANSWERS)));
    if (answer === undefined) return;
    if (++this.#asked > 60 || decisions.odds(4)) {
      this.#end();
    } else if (decisions.odds(24)) {
      // A peer that is asked and never answers is a matter of timeouts: one that answers wrongly ends here.
      this.#push(this.#twisted(decisions.odds(128) ? answer : decisions.pick(ANSWERS)));
      this.#end();
    } else {
      this.#push(answer);
    }
  }

  read(): Promise<ReceivedFrame | null> {
    if (this.#aborted !== undefined) return Promise.reject(this.#aborted);
    const next = this.#answers.shift();
    if (next !== undefined) return Promise.resolve(next);
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
        return {
          type: 'welcome',
          version: 2,
          features: frame.features,
          software: 'fuzz',
          maximumPayload: 2 ** 20,
          incarnation: '1'.repeat(32),
          maximumDeviceState: 2 ** 28,
        };
      case 'ping':
        return { type: 'pong', id: frame.id };
      case 'roundEnd':
        return { type: 'roundAck', round: frame.round, pages: this.#pages.get(frame.round) ?? 0 };
      case 'switchover':
        return { type: 'ready', attempt: 1, loadMs: 1 };
      case 'digestsEnd':
        return { type: 'verified', pagesCompared: 13, pagesDifferent: 0, differences: [] };
      case 'go':
        return { type: 'running', resumeMs: 1, sinceReadyMs: 0 };
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
    else reader.resolve(received);
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
      if (typeof value !== 'number') continue;
      const changed = this.#decisions.number(value);
      // Durations may be fractions, all else is a whole number; neither is negative: a frame stream sees to that.
      if (changed >= 0 && (key.endsWith('Ms') || Number.isSafeInteger(changed))) copy[key] = changed;
    }
    return copy as unknown as Frame;
  }
}

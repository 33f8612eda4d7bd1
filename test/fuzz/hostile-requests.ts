import type { Frame, FrameStream, GodwitError, ReceivedFrame } from '@godwit/core';
import type { Decisions } from './decisions.js';
import { BLOCK_PAGES, exampleAnswers } from './example-frames.js';
import type { Judge } from './judge.js';

/** Turns of the event loop for which this end waits for `go`. */
const PATIENCE = 2_000;
/** Most requests of one connection. */
const MOST_REQUESTS = 200;

/**
 * A destination's end of the urgent channel: asks for pages after `go`, except where its input says otherwise: it may ask too early,
 * outside of RAM, for too many pages, or send another frame.
 */
export class HostileRequests implements FrameStream {
  readonly bytesWritten = 0;
  readonly bytesRead = 0;
  readonly #decisions: Decisions;
  readonly #judge: Judge;
  #aborted: GodwitError | undefined;
  #closed = false;
  #left: number;

  constructor(decisions: Decisions, judge: Judge) {
    this.#decisions = decisions;
    this.#judge = judge;
    this.#left = decisions.odds(64) ? MOST_REQUESTS : decisions.below(6);
  }

  /** Checks an answer: pages in round 0, and no more of them than are allowed. */
  async write(frame: Frame): Promise<void> {
    if (this.#aborted !== undefined) throw this.#aborted;
    this.#judge.written(frame, 1);
    if (frame.type !== 'pages' || frame.round !== 0) throw new Error(`an answer is ${JSON.stringify(frame)}`);
    for (let i = 0; i < frame.runs.length; i += 2) {
      const end = (frame.runs[i] as number) + (frame.runs[i + 1] as number);
      if (end > (BLOCK_PAGES[frame.block] ?? 0))
        throw new Error(`an answer with page ${end - 1} of block ${frame.block}`);
    }
  }

  async read(): Promise<ReceivedFrame | null> {
    const early = this.#decisions.odds(6);
    for (let turn = 0; turn < PATIENCE && !early && !this.#over && !this.#isOpen; turn++) await nextTurn();
    while (this.#left === 0 && !this.#over) await nextTurn();
    if (this.#aborted !== undefined) throw this.#aborted;
    if (this.#over) return null;
    this.#left--;
    return { frame: this.#request(), payloadBytes: 0 };
  }

  async readPayload(): Promise<void> {}
  async skipPayload(): Promise<void> {}

  async close(): Promise<void> {
    this.#closed = true;
  }

  abort(reason: GodwitError): void {
    this.#aborted ??= reason;
  }

  get #over(): boolean {
    return this.#aborted !== undefined || this.#closed;
  }

  get #isOpen(): boolean {
    return this.#judge.saw('switchover');
  }

  #request(): Frame {
    const decisions = this.#decisions;
    if (decisions.odds(8)) return decisions.pick(exampleAnswers());
    const block = decisions.below(BLOCK_PAGES.length);
    const request = {
      type: 'requestPages',
      block,
      page: decisions.below(BLOCK_PAGES[block] as number),
      pages: 1,
    } as const;
    if (!decisions.odds(24)) return request;
    const numbers = [request.block, request.page, request.pages].map((value) => decisions.number(value));
    const [other = 0, page = 0, pages = 0] = numbers.map((value) =>
      Number.isSafeInteger(value) && value >= 0 ? value : 0,
    );
    return { type: 'requestPages', block: other, page, pages };
  }
}

export function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

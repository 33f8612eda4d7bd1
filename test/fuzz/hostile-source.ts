import type { Frame, FrameName, FrameStream, GodwitError, ReceivedFrame } from '@godwit/core';
import type { Decisions } from './decisions.js';
import { BLOCK_PAGES, exampleFrames, PAGE } from './example-frames.js';

/** Turns of the event loop after which the source goes on without an answer. */
const PATIENCE = 50;

/** What a source waits for before it sends a frame. */
const GATES: Partial<Record<FrameName, FrameName>> = {
  pages: 'welcome',
  zeroPages: 'welcome',
  deltaPages: 'welcome',
  compressedPages: 'welcome',
  roundEnd: 'welcome',
  device: 'welcome',
  switchover: 'welcome',
  digests: 'ready',
  digestsEnd: 'ready',
  go: 'ready',
  released: 'running',
};

/**
 * A source's end of a stream that mostly does what a source does, and deviates where its input says so: frames left out,
 * doubled, out of order, with numbers that nobody expects, payloads of the wrong size, the end at any point.
 */
export class HostileSource implements FrameStream {
  readonly bytesWritten = 0;
  bytesRead = 0;
  /** Frames handed out. */
  readonly sent: Frame[] = [];
  readonly #decisions: Decisions;
  readonly #script: Frame[];
  #payloadLeft = 0;
  #aborted: GodwitError | undefined;
  #budget = 200;
  readonly #gated: boolean;
  readonly #answers = new Set<FrameName>();

  /** `gated`: whether the answers that it waits for come on this stream. */
  constructor(decisions: Decisions, script: readonly Frame[], gated: boolean) {
    this.#decisions = decisions;
    this.#gated = gated;
    this.#script = [...script];
  }

  async write(frame: Frame): Promise<void> {
    if (this.#aborted !== undefined) throw this.#aborted;
    this.#answers.add(frame.type);
  }

  async read(): Promise<ReceivedFrame | null> {
    const frame = this.#next();
    // A source speaks when it was answered; a hostile one does not always wait.
    const gate = frame === undefined ? undefined : GATES[frame.type];
    if (gate !== undefined && this.#gated && !this.#decisions.odds(6)) await this.#answered(gate);
    if (this.#aborted !== undefined) throw this.#aborted;
    if (frame === undefined || this.#budget-- === 0) return null;
    this.sent.push(frame);
    let payloadBytes = 0;
    if (frame.type === 'pages') {
      for (let i = 1; i < frame.runs.length; i += 2) payloadBytes += (frame.runs[i] as number) * PAGE;
      payloadBytes = Math.min(payloadBytes, 2 ** 24);
      if (this.#decisions.odds(8)) payloadBytes = this.#decisions.below(8) * PAGE + this.#decisions.below(3);
    } else if (frame.type === 'deltaPages') payloadBytes = this.#decisions.odds(128) ? this.#decisions.below(24) : 1;
    else if (frame.type === 'device' || frame.type === 'digests') payloadBytes = this.#decisions.below(64);
    this.#payloadLeft = payloadBytes;
    this.bytesRead += payloadBytes;
    return { frame, payloadBytes };
  }

  async readPayload(into: readonly Uint8Array[]): Promise<void> {
    if (this.#aborted !== undefined) throw this.#aborted;
    let room = 0;
    for (const chunk of into) room += chunk.length;
    if (room !== this.#payloadLeft) throw new Error(`room for ${room} bytes of a payload of ${this.#payloadLeft}`);
    for (const chunk of into) chunk.fill(this.#decisions.byte());
    this.#payloadLeft = 0;
  }

  async skipPayload(): Promise<void> {
    this.#payloadLeft = 0;
  }

  async close(): Promise<void> {}

  abort(reason: GodwitError): void {
    this.#aborted ??= reason;
  }

  /** Not for ever: silence is a matter of timeouts, which are tested elsewhere. */
  async #answered(type: FrameName): Promise<void> {
    for (let turn = 0; turn < PATIENCE && !this.#answers.has(type) && this.#aborted === undefined; turn++) {
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  #next(): Frame | undefined {
    const decisions = this.#decisions;
    if (decisions.odds(24)) {
      switch (decisions.below(6)) {
        case 0:
          this.#script.shift();
          break;
        case 1:
          return this.#script[0] === undefined ? undefined : this.#twisted(this.#script[0]);
        case 2:
          return undefined;
        case 3:
          return this.#twisted(decisions.pick(exampleFrames()));
        case 4:
          this.#script.reverse();
          break;
        default:
          return this.#page();
      }
    }
    const frame = this.#script.shift();
    return frame !== undefined && decisions.odds(32) ? this.#twisted(frame) : frame;
  }

  /** The same frame with some of its numbers changed, still of the right types: that much a frame stream promises. */
  #twisted(frame: Frame): Frame {
    const decisions = this.#decisions;
    const copy: Record<string, unknown> = { ...frame };
    for (const [key, value] of Object.entries(copy)) {
      if (typeof value === 'number') copy[key] = natural(decisions.number(value), value);
      else if (Array.isArray(value) && value.every((one) => typeof one === 'number')) {
        copy[key] = value.map((one: number) => natural(decisions.number(one), one));
      } else if (typeof value === 'boolean' && decisions.odds(64)) copy[key] = !value;
    }
    return copy as unknown as Frame;
  }

  #page(): Frame {
    const decisions = this.#decisions;
    const block = decisions.below(BLOCK_PAGES.length + 1);
    const runs = Array.from({ length: 2 * (1 + decisions.below(3)) }, () => decisions.below(10));
    const type = decisions.pick(['zeroPages', 'pages', 'deltaPages'] as const);
    return { type, round: 1 + decisions.below(3), block, runs };
  }
}

function natural(value: number, otherwise: number): number {
  return Number.isSafeInteger(value) && value >= 0 ? value : otherwise;
}

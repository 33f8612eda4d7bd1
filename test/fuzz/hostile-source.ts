import {
  type Frame,
  type FrameStream,
  type GodwitError,
  HELLO_STAGES,
  isLegal,
  MOVED_RUN_STATES,
  type ReceivedFrame,
} from '@godwit/core';
import { DIGEST_BYTES } from '@godwit/core/pages';
import type { Decisions } from './decisions.js';
import { BLOCK_PAGES, exampleMigrations, PAGE, ROUNDS_BEFORE } from './example-frames.js';
import type { Judge } from './judge.js';

/** Turns of the event loop after which the source goes on without an answer. */
const PATIENCE = 50;

/** Turns for which a page channel stays open after its last frame. */
const LONG_PATIENCE = 500;

/** Phases of a source in which it waits for an answer before it sends a frame that matters. */
const WAITING: readonly unknown[] = ['greeting', 'verifying', 'going-back', 'handing-over'];

/**
 * A source's end of a stream, which behaves as a source except where its input says otherwise: frames are left out,
 * doubled, out of order, or have unexpected numbers or payloads of the wrong size, and the stream may end at any point.
 */
export class HostileSource implements FrameStream {
  readonly bytesWritten = 0;
  bytesRead = 0;
  readonly #decisions: Decisions;
  readonly #script: Frame[];
  readonly #judge: Judge;
  readonly #stream: number;
  /** Whether this is the urgent channel, which sends the answers to requests. */
  readonly #urgent: boolean;
  #payloadLeft = 0;
  #aborted: GodwitError | undefined;
  #budget = 200;

  constructor(decisions: Decisions, script: readonly Frame[], judge: Judge, stream = 0, urgent = false) {
    this.#urgent = urgent;
    this.#decisions = decisions;
    this.#script = [...script];
    this.#judge = judge;
    this.#stream = stream;
  }

  async write(frame: Frame): Promise<void> {
    if (this.#aborted !== undefined) throw this.#aborted;
    this.#judge.written(frame, this.#stream);
    if (frame.type === 'requestPages') this.#answer(frame);
  }

  async read(): Promise<ReceivedFrame | null> {
    if (this.#stream === 0) this.#judge.settled();
    if (this.#urgent) await this.#asked();
    const frame = this.#next();
    // A source goes on after the answer; a hostile one does not always wait for it.
    if (!this.#urgent && !this.#decisions.odds(6)) await this.#answered(frame);
    if (this.#aborted !== undefined) throw this.#aborted;
    if (frame === undefined || this.#budget-- === 0) return null;
    this.#judge.handed(frame, this.#stream);
    let payloadBytes = 0;
    if (frame.type === 'pages') {
      for (let i = 1; i < frame.runs.length; i += 2) payloadBytes += (frame.runs[i] as number) * PAGE;
      payloadBytes = Math.min(payloadBytes, 2 ** 24);
      if (this.#decisions.odds(8)) payloadBytes = this.#decisions.below(8) * PAGE + this.#decisions.below(3);
    } else if (frame.type === 'digests' && !this.#decisions.odds(64)) {
      for (let i = 1; i < frame.runs.length; i += 2) payloadBytes += (frame.runs[i] as number) * DIGEST_BYTES;
      payloadBytes = Math.min(payloadBytes, 2 ** 16);
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

  /** Answers a request, mostly once and with the requested pages. */
  #answer({ block, page, pages }: Extract<Frame, { type: 'requestPages' }>): void {
    const decisions = this.#decisions;
    if (decisions.odds(4)) return;
    const frame: Frame = { type: 'pages', round: 0, block, runs: [page, pages] };
    this.#script.push(decisions.odds(16) ? this.#twisted(frame) : frame);
    if (decisions.odds(32)) this.#script.push(frame);
    if (decisions.odds(16)) this.#script.push({ ...this.#page(), round: 0 } as Frame);
  }

  /** Waits until there is a request to answer, or the migration is over. */
  async #asked(): Promise<void> {
    for (let turn = 0; turn < LONG_PATIENCE && this.#script.length === 0 && this.#aborted === undefined; turn++) {
      if (this.#judge.saw('released') || this.#judge.saw('error')) return;
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  /** Waits for the answer, but not for ever: silence is a matter of timeouts, which other tests have. */
  async #answered(frame: Frame | undefined): Promise<void> {
    const patience = this.#stream > 0 ? LONG_PATIENCE : PATIENCE;
    for (let turn = 0; turn < patience && !this.#isTurn(frame) && this.#aborted === undefined; turn++) {
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  /**
   * Whether a source would send this frame now: the protocol's table allows it, and the source waits for no other frame.
   */
  #isTurn(frame: Frame | undefined): boolean {
    // A stream ends with the migration.
    if (frame === undefined) return this.#judge.saw('released') || this.#judge.saw('error');
    const { type } = frame;
    const { source, destination } = this.#judge.phases;
    const acknowledged = this.#judge.last('roundAck')?.round ?? 0;
    // A round follows the previous one; rounds of later attempts come after the first attempt was given up.
    if (this.#stream > 0 && 'round' in frame) {
      return (
        frame.round <= acknowledged + 1 &&
        (frame.round <= ROUNDS_BEFORE || this.#judge.saw('back') || this.#judge.saw('running'))
      );
    }
    if (type === 'hello' || type === 'ping' || type === 'error') return true;
    if (type === 'switchover' && acknowledged < frame.round) return false;
    if (type !== 'switchover' && 'round' in frame && frame.round > acknowledged + 1) return false;
    if (type === 'released' && source === 'post-copy' && !this.#judge.saw('whole')) return false;
    if (WAITING.includes(source) && !(source === 'verifying' && type.startsWith('digests'))) return false;
    return destination !== undefined && isLegal('destination', destination, type);
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
          return this.#twisted(decisions.pick(decisions.pick(exampleMigrations())));
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

  /** The same frame with some of its numbers changed. They keep their types, which a frame stream guarantees. */
  #twisted(frame: Frame): Frame {
    const decisions = this.#decisions;
    const copy: Record<string, unknown> = { ...frame };
    for (const [key, value] of Object.entries(copy)) {
      if (typeof value === 'number') copy[key] = natural(decisions.number(value), value);
      else if (Array.isArray(value) && value.every((one) => typeof one === 'number')) {
        copy[key] = value.map((one: number) => natural(decisions.number(one), one));
      } else if (typeof value === 'boolean' && decisions.odds(64)) copy[key] = !value;
      else if (key === 'stage' && decisions.odds(64)) copy[key] = decisions.pick(HELLO_STAGES);
      else if (key === 'runState' && decisions.odds(64)) copy[key] = decisions.pick(MOVED_RUN_STATES);
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

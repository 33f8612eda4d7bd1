import { FEATURES, type Frame, type FrameName, type HelloFrame } from '@godwit/core';
import type { RecordedFrame } from '@godwit/transport';
import type { AttemptEnd, Finding } from './finding.js';

/**
 * The number of unanswered questions that are kept. The last ones are kept, since a newer question replaces older ones.
 */
const MOST_QUESTIONS = 64;

/** Features without which a frame is not sent. */
const NEEDS: Partial<Record<FrameName, string>> = {
  back: FEATURES.back,
  backAck: FEATURES.back,
  digests: FEATURES.verify,
  digestsEnd: FEATURES.verify,
  verified: FEATURES.verify,
  deltaPages: 'encoding:delta',
  awaitPieces: FEATURES.deviceChannels,
  arrived: FEATURES.deviceChannels,
  loadEarly: FEATURES.loadEarly,
  missing: FEATURES.postcopy,
  requestPages: FEATURES.postcopy,
  whole: FEATURES.postcopy,
};

/** The current stop-and-copy. */
interface OpenAttempt {
  readonly attempt: number;
  link: number;
  readonly from: number | undefined;
  deviceBytes: number;
}

/**
 * Checks a migration over all of its connections: the current attempt and those that were given up, the destination that
 * answers, and the features that were agreed on.
 */
export class MigrationAudit {
  readonly #report: (finding: Finding) => void;
  /** Stop-and-copies that have begun. */
  attempts = 0;
  /** The stop-and-copies that the source has given up, to go on with pre-copy. */
  wentBack = 0;
  #features: readonly string[] | undefined;
  #incarnation: string | undefined;
  #open: OpenAttempt | undefined;
  #givenUp = 0;
  #questions: string[] = [];

  constructor(report: (finding: Finding) => void) {
    this.#report = report;
  }

  /** Takes a frame of link `link`. Returns what is wrong with the frame. */
  take(item: RecordedFrame, link: number): string | undefined {
    const { frame } = item;
    const unagreed = needsOf(frame).find((feature) => this.#features?.includes(feature) === false);
    if (unagreed !== undefined) return `a "${frame.type}" frame, though "${unagreed}" was not agreed on`;
    switch (frame.type) {
      case 'hello':
        return this.#hello(frame, item, link);
      case 'welcome':
        this.#features = frame.features;
        this.#incarnation = frame.incarnation;
        break;
      case 'resumed':
        return this.#same(frame);
      case 'prepare':
        this.#questions = [...this.#questions.slice(1 - MOST_QUESTIONS), questionOf(frame)];
        return this.#mustBeNew(frame);
      case 'prepared':
        // A capture of only the destination's direction has the answers without the questions.
        if (item.track !== undefined && !this.#asked(questionOf(frame))) {
          return 'a "prepared" frame answers what was not asked';
        }
        return this.#same(frame);
      case 'device':
        if (frame.attempt === 0) break;
        // On a page channel, a piece may come after its attempt was given up. It is void.
        if (frame.attempt <= this.#givenUp && (item.track?.stream ?? 0) > 0) break;
        return this.#belongs(frame, item, link) ?? this.#add(item.payloadBytes);
      case 'switchover':
        return this.#belongs(frame, item, link);
      case 'go': {
        const wrong = this.#belongs(frame, item, link);
        this.#close('go', item.atMicros);
        return wrong;
      }
      case 'back': {
        const wrong = this.#belongs(frame, item, link);
        // The attempt was given up before any other frame of it was sent.
        if (wrong === undefined && this.#open === undefined) this.#begin(frame.attempt, link, item.atMicros);
        this.#givenUp = Math.max(this.#givenUp, frame.attempt);
        this.#close('back', item.atMicros);
        return wrong;
      }
      case 'backAck':
        this.#questions = [];
        if (item.track === undefined || frame.attempt === this.#givenUp) break;
        return `"backAck" of attempt ${frame.attempt}; the last one that was given up is ${this.#givenUp}`;
      case 'ready':
        return this.#answers(frame);
      default:
    }
    return undefined;
  }

  /** Ends the audit: the file has no further frame of this migration. */
  end(): void {
    this.#close('none', undefined);
  }

  #hello({ stage, attempt }: HelloFrame, item: RecordedFrame, link: number): string | undefined {
    this.#questions = [];
    const open = this.#open;
    if (open !== undefined && stage === 'running' && attempt > open.attempt) {
      this.#givenUp = Math.max(this.#givenUp, open.attempt);
      this.#close('connection', item.atMicros);
    }
    if (this.#open !== undefined && stage === 'paused') this.#open.link = link;
    if (attempt === 0) return 'a hello of attempt 0; the first is 1';
    if (stage === 'running' && attempt <= this.#givenUp) {
      return `a hello that makes attempt ${attempt} next; ${this.#givenUp} was given up`;
    }
    if (stage === 'paused' && this.#open !== undefined && attempt !== this.#open.attempt) {
      return `a hello that goes on with attempt ${attempt}, where ${this.#open.attempt} is under way`;
    }
    return undefined;
  }

  /** Whether this question waits for an answer. The answer settles the earlier questions too. */
  #asked(question: string): boolean {
    const at = this.#questions.indexOf(question);
    this.#questions = this.#questions.slice(at + 1);
    return at !== -1;
  }

  /** Checks that the frame belongs to the current stop-and-copy, or begins one. */
  #belongs(frame: Extract<Frame, { attempt: number }>, { atMicros }: RecordedFrame, link: number): string | undefined {
    const { type, attempt } = frame;
    if (this.#open === undefined) {
      const wrong = this.#mustBeNew(frame);
      if (wrong !== undefined) return wrong;
      // Of an attempt that began before the file did, the file may have only `go` or `back`.
      if (type === 'device' || type === 'switchover') this.#begin(attempt, link, atMicros);
      return undefined;
    }
    if (attempt === this.#open.attempt) return undefined;
    return `a "${type}" frame of attempt ${attempt}, where ${this.#open.attempt} is under way`;
  }

  #mustBeNew({ type, attempt }: Extract<Frame, { attempt: number }>): string | undefined {
    if (attempt === 0) return `a "${type}" frame of attempt 0; the first is 1`;
    return attempt > this.#givenUp
      ? undefined
      : `a "${type}" frame of attempt ${attempt}; ${this.#givenUp} was given up`;
  }

  /** Answers for an attempt may still come after the source has given it up. */
  #answers({ attempt }: Extract<Frame, { type: 'ready' }>): string | undefined {
    const asked = this.#open?.attempt ?? this.#givenUp;
    return asked === 0 || attempt === asked ? undefined : `"ready" of attempt ${attempt}; it was asked for ${asked}`;
  }

  #same({ type, incarnation }: Extract<Frame, { incarnation: string }>): string | undefined {
    if (this.#incarnation === undefined || incarnation === this.#incarnation) return undefined;
    return `a "${type}" frame of the incarnation ${incarnation}; the welcome was that of ${this.#incarnation}`;
  }

  #begin(attempt: number, link: number, from: number | undefined): void {
    this.attempts++;
    this.#open = { attempt, link, from, deviceBytes: 0 };
  }

  #add(bytes: number): undefined {
    if (this.#open !== undefined) this.#open.deviceBytes += bytes;
  }

  #close(end: AttemptEnd, atMicros: number | undefined): void {
    if (this.#open === undefined) return;
    const { attempt, link, from, deviceBytes } = this.#open;
    this.#open = undefined;
    if (end === 'back' || end === 'connection') this.wentBack++;
    const durationMs = from === undefined || atMicros === undefined ? undefined : (atMicros - from) / 1000;
    this.#report({ event: 'attempt', link, attempt, end, durationMs, deviceBytes });
  }
}

/** The features without which this frame is not sent. */
function needsOf(frame: Frame): readonly string[] {
  const byType = NEEDS[frame.type];
  return [
    ...(byType === undefined ? [] : [byType]),
    ...(frame.type === 'compressedPages' ? [`encoding:${frame.encoding}`] : []),
    ...('words' in frame && frame.words !== undefined ? [FEATURES.bitmap] : []),
    ...(frame.type === 'resumed' && frame.state === 'incomplete' ? [FEATURES.postcopy] : []),
  ];
}

function questionOf({ attempt, deviceSequences }: Extract<Frame, { type: 'prepare' | 'prepared' }>): string {
  return `${attempt}: ${deviceSequences.join()}`;
}

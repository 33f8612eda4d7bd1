import type { Clock } from '../clock.js';
import { GodwitError } from '../errors.js';
import type { PreparedFrame } from '../protocol/frame.js';
import type { SourceConnection } from './source-connection.js';

/** A `prepare` that was sent: only its answer counts. */
interface Question {
  readonly connection: SourceConnection;
  readonly attempt: number;
  readonly sequences: readonly number[];
  readonly askedAt: number;
}

/**
 * Tracks whether the destination is prepared (QEMU: switchover-ack): its VM is built, and its devices have loaded all state that was
 * sent. The answer (`prepared`) names the destination's incarnation, the attempt and the last pieces. A restart of the destination,
 * another attempt, another connection, a reset of a device or a new piece makes the answer void.
 */
export class Readiness {
  readonly #clock: Clock;
  readonly #changed = new Set<() => void>();
  /** Answers so far: each has said anew how long the destination expects to load and to resume. */
  answers = 0;
  #question: Question | undefined;
  #prepared: Question | undefined;
  /** The time at which the destination was first asked after it was last prepared. */
  #waitingSince: number | undefined;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Milliseconds since the first unanswered question; 0 while the destination is prepared. */
  get waitedMs(): number {
    return this.#waitingSince === undefined ? 0 : this.#clock.now() - this.#waitingSince;
  }

  /** Whether everything that was sent on this connection so far is loaded, for this attempt. */
  isPrepared(connection: SourceConnection, attempt: number, sequences: readonly number[]): boolean {
    return this.#prepared !== undefined && isAbout(this.#prepared, connection, attempt, sequences);
  }

  /** Sends `prepare`, unless the same question was sent or answered already. Does not wait. */
  ask(connection: SourceConnection, attempt: number, sequences: readonly number[]): void {
    if (this.isPrepared(connection, attempt, sequences)) return;
    if (this.#question !== undefined && isAbout(this.#question, connection, attempt, sequences)) return;
    this.#waitingSince ??= this.#clock.now();
    const question = { connection, attempt, sequences: [...sequences], askedAt: this.#clock.now() };
    this.#question = question;
    // The failure of the write is ignored: a lost link is noticed by reading from it.
    connection.write({ type: 'prepare', attempt, deviceSequences: question.sequences }).catch(() => {});
  }

  /** Handles `prepared`. An answer to an older question is ignored; one of another incarnation throws `GODWIT_PROTOCOL`. */
  answered(frame: PreparedFrame, incarnation: string): void {
    if (frame.incarnation !== incarnation) {
      throw new GodwitError(
        'GODWIT_PROTOCOL',
        `"prepared" comes from incarnation ${frame.incarnation} of the destination; this one is ${incarnation}`,
      );
    }
    const question = this.#question;
    if (question === undefined || frame.attempt !== question.attempt) return;
    if (!sameNumbers(frame.deviceSequences, question.sequences)) return;
    this.answers++;
    this.#prepared = question;
    this.#question = undefined;
    this.#waitingSince = undefined;
    for (const wake of this.#changed) wake();
    this.#changed.clear();
  }

  /** Resolves when the destination becomes prepared, or when `signal` aborts. */
  changed(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      this.#changed.add(resolve);
      const enough = () => {
        this.#changed.delete(resolve);
        resolve();
      };
      signal.addEventListener('abort', enough, { once: true });
    });
  }
}

function isAbout(
  question: Question,
  connection: SourceConnection,
  attempt: number,
  sequences: readonly number[],
): boolean {
  return (
    question.connection === connection && question.attempt === attempt && sameNumbers(question.sequences, sequences)
  );
}

function sameNumbers(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((value, index) => value === b[index]);
}

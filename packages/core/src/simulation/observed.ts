import type { Clock } from '../clock.js';
import type { MigrationEvent } from '../migration-event.js';
import type { RoundRecord } from '../round-record.js';

/** A stop-and-copy; times are those of the simulation. */
export interface SimulatedPause {
  readonly fromMs: number;
  readonly toMs: number;
  /** True when the stop-and-copy was given up and the guest ran on at the source. */
  readonly wentBack: boolean;
}

/**
 * The bytes of RAM that were owed at the beginning or the end of a round, or of post-copy. Between two such moments the
 * number changes linearly.
 */
export interface OwedAt {
  readonly ms: number;
  readonly bytes: number;
}

/** Collects the events of a simulated migration. */
export class Observed {
  readonly rounds: RoundRecord[] = [];
  readonly owed: OwedAt[] = [];
  readonly warnings: string[] = [];
  readonly #clock: Clock;
  readonly #pageSize: number;
  readonly #pauses: SimulatedPause[] = [];
  #pausedAt: number | undefined;

  constructor(clock: Clock, pageSize: number) {
    this.#clock = clock;
    this.#pageSize = pageSize;
  }

  take(event: MigrationEvent): void {
    const ms = this.#clock.now();
    switch (event.type) {
      case 'round-start':
        this.#owes(ms, event.dirtyPages);
        break;
      case 'round':
        this.rounds.push(event.round);
        this.#owes(ms, event.round.newlyDirtyPages);
        break;
      case 'switchover-start':
        this.#pausedAt = ms;
        break;
      case 'went-back':
        this.#pauseEnds(ms, true);
        break;
      case 'limit-unreachable':
        this.warnings.push(
          `the limit of ${event.limitMs} ms cannot be reached: all but RAM takes ${event.fixedMs.toFixed(1)} ms`,
        );
        break;
      default:
    }
  }

  /** The pauses; one that has not ended is given the end `endMs`. */
  pauses(endMs: number): readonly SimulatedPause[] {
    this.#pauseEnds(endMs, false);
    return this.#pauses;
  }

  #owes(ms: number, pages: number): void {
    const point = { ms, bytes: pages * this.#pageSize };
    const last = this.owed.at(-1);
    if (last?.ms !== point.ms || last.bytes !== point.bytes) this.owed.push(point);
  }

  #pauseEnds(toMs: number, wentBack: boolean): void {
    if (this.#pausedAt !== undefined) this.#pauses.push({ fromMs: this.#pausedAt, toMs, wentBack });
    this.#pausedAt = undefined;
  }
}

import type { IncomingEvent, IncomingStatus, MigrationEvent, MigrationStatus } from '@godwit/core';
import { LastItems, ThinnedList } from './bounded-list.js';
import { DestinationSide } from './destination-model.js';
import { guestPlace } from './guest-place.js';
import {
  type LogEntry,
  type MigrationModel,
  MOST_LOG_ENTRIES,
  MOST_ROUNDS,
  MOST_SAMPLES,
  type RoundModel,
} from './migration-model.js';
import { SampleSeries } from './sample-series.js';
import { SourceSide } from './source-model.js';

/**
 * Folds the events of a migration, from either side or both, into a model of bounded size. It has no clock: each event comes with its time.
 */
export class ModelBuilder {
  readonly #title: string;
  /** When the migration began: milliseconds since 1970. */
  startedAt = 0;
  readonly rounds = new ThinnedList<RoundModel>(MOST_ROUNDS);
  readonly log = new LastItems<LogEntry>(MOST_LOG_ENTRIES);
  readonly samples = new SampleSeries(MOST_SAMPLES);
  #source: SourceSide | undefined;
  #destination: DestinationSide | undefined;
  #latestMs = 0;
  #overAtMs: number | undefined;

  /** `title` is the heading of the page. */
  constructor(title: string) {
    this.#title = title;
  }

  /** The source's side is watched from now on. */
  watchSource(id?: string): void {
    this.#source ??= new SourceSide(id, {
      round: (round) => this.rounds.add(round),
      sample: (sample) => this.samples.add(sample),
    });
  }

  /** The destination's side is watched from now on. */
  watchDestination(): void {
    this.#destination ??= new DestinationSide();
  }

  /** Whether the migration is over: the model no longer changes. */
  get over(): boolean {
    return (this.#source?.over ?? true) && (this.#destination?.over ?? true);
  }

  /** Takes an event of the source, `atMs` after the migration began. */
  source(event: MigrationEvent, atMs: number): void {
    this.watchSource();
    this.#took('source', this.#source?.take(event, atMs), atMs);
  }

  /** Takes an event of the destination, on the same clock. */
  destination(event: IncomingEvent, atMs: number): void {
    this.watchDestination();
    this.#took('destination', this.#destination?.take(event, atMs), atMs);
  }

  /** Takes the current status of both sides. Once the migration is over, it adds only what the last events did not say. */
  status(source: MigrationStatus | undefined, destination: IncomingStatus | undefined, atMs: number): void {
    if (source !== undefined) this.#source?.status(source, atMs);
    if (destination !== undefined) this.#destination?.status(destination, atMs);
    this.passed(atMs);
  }

  /** Sets the elapsed time. */
  passed(atMs: number): void {
    this.#latestMs = Math.max(this.#latestMs, atMs);
  }

  /** Sets the limits in force, for a migration without a status. */
  limits(limits: { readonly downtimeLimitMs?: number; readonly bandwidthLimit?: number }): void {
    this.#source?.limits(limits);
  }

  /** The model without its lists. */
  head(): Omit<MigrationModel, 'rounds' | 'log' | 'samples'> {
    return {
      format: 'godwit-migration/1',
      title: this.#title,
      origin: 'live',
      startedAt: new Date(this.startedAt).toISOString(),
      elapsedMs: this.#overAtMs ?? this.#latestMs,
      over: this.over,
      guest: guestPlace(this.#source?.ownership, this.#destination?.ownership, this.#source?.state),
      source: this.#source?.model() ?? null,
      destination: this.#destination?.model() ?? null,
    };
  }

  model(): MigrationModel {
    return {
      ...this.head(),
      samples: this.samples.from(0),
      rounds: { count: this.rounds.count, kept: [...this.rounds.all] },
      log: { dropped: this.log.dropped, entries: [...this.log.all] },
    };
  }

  #took(side: LogEntry['side'], line: Pick<LogEntry, 'level' | 'text'> | undefined, atMs: number): void {
    this.#latestMs = Math.max(this.#latestMs, atMs);
    if (line !== undefined) this.log.add({ atMs, side, ...line });
    if (this.over) this.#overAtMs ??= this.#source?.totalMs ?? this.#latestMs;
  }
}

import type { MigrationEvent, MigrationSummary, Progress, RoundRecord } from '@godwit/core';
import type { ActiveStates } from './active-states.js';
import type { Labels, MetricSink } from './metric-list.js';

/** Measures one migration at its source, by its events. */
export class SourceMeter {
  readonly #sink: MetricSink;
  readonly #labels: Labels;
  readonly #active: ActiveStates;
  readonly #now: () => number;
  readonly #startedAt: number;
  #state = 'none';
  /** For each total that the events have, the part that was counted so far. */
  readonly #counted = new Map<string, number>();
  #over = false;

  constructor(sink: MetricSink, labels: Labels, active: ActiveStates, now: () => number) {
    this.#sink = sink;
    this.#labels = labels;
    this.#active = active;
    this.#now = now;
    this.#startedAt = now();
    sink.add('started', 1, labels);
    active.enter(undefined, this.#state, labels);
  }

  take(event: MigrationEvent): void {
    const labels = this.#labels;
    switch (event.type) {
      case 'status':
        this.#enter(event.status.state);
        this.#progress(event.status.progress);
        break;
      case 'state':
        this.#enter(event.state);
        break;
      case 'progress':
        this.#progress(event.progress);
        break;
      case 'round':
        this.#round(event.round);
        break;
      case 'throttle':
        this.#sink.set('throttle', event.fraction, labels);
        break;
      case 'went-back':
        this.#sink.add('wentBack', 1, { ...labels, term: termName(event.term) });
        break;
      case 'link-lost':
        this.#sink.add('linkLost', 1, { ...labels, code: event.reason.code });
        break;
      case 'warning':
        this.#sink.add('warnings', 1, { ...labels, code: event.code });
        break;
      case 'completed':
        this.#completed(event.summary);
        break;
      case 'failed':
        this.#ended(
          event.error.code === 'GODWIT_CANCELLED' ? 'cancelled' : 'failed',
          event.error.code,
          this.#elapsedMs,
        );
        break;
      default:
    }
  }

  /** The watching has ended: the migration no longer counts as active. */
  end(): void {
    if (this.#over) return;
    this.#over = true;
    this.#active.enter(this.#state, undefined, this.#labels);
  }

  get #elapsedMs(): number {
    return this.#now() - this.#startedAt;
  }

  #enter(state: string): void {
    if (this.#over || state === this.#state) return;
    this.#active.enter(this.#state, state, this.#labels);
    this.#state = state;
  }

  #progress(progress: Progress): void {
    const labels = this.#labels;
    this.#countTotals(progress);
    if (this.#over) return;
    this.#sink.set('wireRate', progress.wireBytesPerSecond, labels);
    this.#sink.set('dirtyRate', progress.dirtyPagesPerSecond, labels);
    this.#sink.set('throttle', progress.throttle, labels);
  }

  /**
   * A counter may only grow. When a connection is lost, a total may fall by what was not written; the counter is then
   * left as it is.
   */
  #countTotals({ pages, wireBytes, savedBytes }: Pick<Progress, 'pages' | 'wireBytes' | 'savedBytes'>): void {
    this.#count('wireBytes', wireBytes);
    this.#count('savedBytes', savedBytes);
    for (const [kind, count] of Object.entries(pages)) this.#count('pages', count, { kind });
  }

  #count(metric: 'wireBytes' | 'savedBytes' | 'pages', total: number, more: Labels = {}): void {
    const key = `${metric} ${more['kind'] ?? ''}`;
    const before = this.#counted.get(key) ?? 0;
    if (total <= before) return;
    this.#counted.set(key, total);
    this.#sink.add(metric, total - before, { ...this.#labels, ...more });
  }

  #round(round: RoundRecord): void {
    const labels = this.#labels;
    const phase = { ...labels, phase: round.phase };
    this.#sink.add('rounds', 1, phase);
    this.#sink.record('roundDuration', round.totalMs / 1000, phase);
    this.#sink.set('linkRate', round.linkBytesPerSecond, labels);
    for (const { name, dirtyPages } of round.trackers) {
      this.#sink.add('trackerPages', dirtyPages, { ...labels, tracker: name });
    }
    if (Number.isFinite(round.predictedDowntimeMs)) {
      this.#sink.set('expectedDowntime', round.predictedDowntimeMs / 1000, labels);
    }
  }

  #completed(summary: MigrationSummary): void {
    const labels = this.#labels;
    this.#countTotals(summary);
    if (summary.dryRun === undefined) {
      this.#sink.record('downtime', summary.downtimeMs / 1000, labels);
      // The pause of a background snapshot is not predicted.
      if (summary.background === undefined && Number.isFinite(summary.predictedDowntimeMs)) {
        this.#sink.record('downtimePredicted', summary.predictedDowntimeMs / 1000, labels);
      }
      for (const [term, { actualMs }] of Object.entries(summary.downtime)) {
        this.#sink.record('downtimeTerm', actualMs / 1000, { ...labels, term: termName(term) });
      }
    }
    this.#ended('completed', '', summary.totalMs);
  }

  #ended(outcome: string, code: string, elapsedMs: number): void {
    const labels = this.#labels;
    this.#sink.add('ended', 1, { ...labels, outcome, code });
    this.#sink.record('duration', elapsedMs / 1000, { ...labels, outcome });
    for (const gauge of ['wireRate', 'dirtyRate', 'throttle', 'expectedDowntime'] as const) {
      this.#sink.set(gauge, 0, labels);
    }
    this.end();
  }
}

/** `roundTripMs` becomes the term `roundTrip`, since the metric's name has the unit already. */
function termName(term: string): string {
  return term.replace(/Ms$/, '');
}

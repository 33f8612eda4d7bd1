import type { MigrationEvent, MigrationSummary, RoundRecord } from '@godwit/core';
import {
  type Attributes,
  type Context,
  context,
  type Span,
  SpanStatusCode,
  type Tracer,
  trace,
} from '@opentelemetry/api';
import type { Watched } from '../observe.js';

/**
 * One migration as spans: `godwit.migration`, and in it one for each phase (`godwit.phase`, by the state's name) and one for each round
 * (`godwit.round`), which is a part of its phase. The spans begin and end with the migration's events.
 */
export class MigrationSpans {
  readonly #tracer: Tracer;
  readonly #migration: Span;
  readonly #inMigration: Context;
  #phase: Span | undefined;
  #inPhase: Context;
  #round: Span | undefined;
  #over = false;

  constructor(tracer: Tracer, id: string | undefined, attributes: Attributes) {
    this.#tracer = tracer;
    const known = id === undefined ? {} : { 'godwit.migration.id': id };
    // The parent is the span that is active at this moment.
    this.#migration = tracer.startSpan('godwit.migration', { attributes: { ...attributes, ...known } });
    this.#inMigration = trace.setSpan(context.active(), this.#migration);
    this.#inPhase = this.#inMigration;
  }

  take(event: MigrationEvent): void {
    if (this.#over) return;
    switch (event.type) {
      case 'status':
        this.#enter(event.status.state);
        break;
      case 'state':
        this.#enter(event.state);
        break;
      case 'round-start':
        this.#round?.end();
        this.#round = this.#tracer.startSpan(
          'godwit.round',
          { attributes: { 'godwit.round.number': event.round, 'godwit.round.dirty_pages': event.dirtyPages } },
          this.#inPhase,
        );
        break;
      case 'round':
        this.#roundEnded(event.round);
        break;
      case 'went-back':
        this.#migration.addEvent('went-back', {
          'godwit.attempt': event.attempt,
          'godwit.downtime.term': event.term,
          'error.type': event.reason.code,
        });
        break;
      case 'link-lost':
        this.#migration.addEvent('link-lost', { 'error.type': event.reason.code });
        break;
      case 'reconnected':
        this.#migration.addEvent('reconnected', { 'godwit.connection': event.connection });
        break;
      case 'warning':
        this.#migration.addEvent('warning', { 'error.type': event.code, 'godwit.message': event.message });
        break;
      case 'completed':
        this.#migration.setAttributes(summaryAttributes(event.summary));
        this.#migration.setStatus({ code: SpanStatusCode.OK });
        this.end();
        break;
      case 'failed':
        this.#migration.setAttribute('error.type', event.error.code);
        this.#migration.recordException(event.error);
        this.#migration.setStatus({ code: SpanStatusCode.ERROR, message: event.error.message });
        this.end();
        break;
      default:
    }
  }

  /** Ends all open spans; later events are ignored. */
  end(): void {
    if (this.#over) return;
    this.#over = true;
    this.#round?.end();
    this.#phase?.end();
    this.#migration.end();
  }

  #enter(state: string): void {
    // A round ends with its phase at the latest.
    this.#round?.end();
    this.#round = undefined;
    this.#phase?.end();
    this.#phase = this.#tracer.startSpan('godwit.phase', { attributes: { 'godwit.state': state } }, this.#inMigration);
    this.#inPhase = trace.setSpan(this.#inMigration, this.#phase);
  }

  #roundEnded(round: RoundRecord): void {
    this.#round?.setAttributes({
      'godwit.round.phase': round.phase,
      'godwit.round.wire_bytes': round.wireBytes,
      'godwit.round.newly_dirty_pages': round.newlyDirtyPages,
      'godwit.round.dirty_pages_per_second': round.dirtyPagesPerSecond,
      'godwit.round.predicted_downtime_ms': round.predictedDowntimeMs,
      'godwit.round.decision': round.decision.action,
      'godwit.round.reason': round.decision.reason,
    });
    this.#round?.end();
    this.#round = undefined;
  }
}

function summaryAttributes(summary: MigrationSummary): Attributes {
  const terms = Object.entries(summary.downtime).map(([term, { actualMs }]) => [
    `godwit.downtime.${term.replace(/Ms$/, '')}_ms`,
    actualMs,
  ]);
  return {
    'godwit.downtime_ms': summary.downtimeMs,
    // The pause of a background snapshot is not predicted.
    ...(summary.background === undefined && { 'godwit.predicted_downtime_ms': summary.predictedDowntimeMs }),
    'godwit.wire_bytes': summary.wireBytes,
    'godwit.rounds': summary.rounds.length,
    'godwit.attempts': summary.attempts.length + 1,
    'godwit.verified': summary.verified,
    ...Object.fromEntries(terms),
  };
}

/** The spans of a migration, until it is over or `unsubscribe` is called. */
export function spansOf(
  migration: Watched<MigrationEvent, unknown>,
  tracer: Tracer,
  attributes: Attributes,
): { unsubscribe(): void } {
  const spans = new MigrationSpans(tracer, migration.id, attributes);
  const subscription = migration.subscribe((event) => spans.take(event));
  return {
    unsubscribe() {
      subscription.unsubscribe();
      spans.end();
    },
  };
}

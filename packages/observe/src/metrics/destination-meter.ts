import type { FaultStatus, IncomingEvent } from '@godwit/core';
import type { ActiveStates } from './active-states.js';
import type { Labels, MetricSink } from './metric-list.js';

/** Measures one migration at its destination, by its events. */
export class DestinationMeter {
  readonly #sink: MetricSink;
  readonly #labels: Labels;
  readonly #active: ActiveStates;
  readonly #now: () => number;
  /** When the source's hello came; the time before it does not count, since a destination may wait for days. */
  #startedAt: number | undefined;
  #state = 'none';
  readonly #counted = new Map<string, number>();
  #over = false;

  constructor(sink: MetricSink, labels: Labels, active: ActiveStates, now: () => number) {
    this.#sink = sink;
    this.#labels = labels;
    this.#active = active;
    this.#now = now;
    sink.add('started', 1, labels);
    active.enter(undefined, this.#state, labels);
  }

  take(event: IncomingEvent): void {
    const labels = this.#labels;
    switch (event.type) {
      case 'status':
        this.#enter(event.status.state);
        this.#received(event.status);
        break;
      case 'state':
        this.#enter(event.state);
        break;
      case 'hello':
        this.#startedAt ??= this.#now();
        break;
      case 'round':
        this.#sink.add('rounds', 1, { ...labels, phase: 'received' });
        break;
      case 'progress':
        this.#received(event);
        break;
      case 'faults':
        this.#faults(event.faults);
        break;
      case 'link-lost':
        this.#sink.add('linkLost', 1, { ...labels, code: event.reason.code });
        break;
      case 'warning':
        this.#sink.add('warnings', 1, { ...labels, code: event.code });
        break;
      case 'completed':
        this.#received(event.summary);
        if (event.summary.faults !== undefined) this.#faults(event.summary.faults);
        this.#ended('completed', '');
        break;
      case 'failed':
        this.#ended(event.error.code === 'GODWIT_CANCELLED' ? 'cancelled' : 'failed', event.error.code);
        break;
      default:
    }
  }

  /** The watching has ended. */
  end(): void {
    if (this.#over) return;
    this.#over = true;
    this.#active.enter(this.#state, undefined, this.#labels);
  }

  #enter(state: string): void {
    if (this.#over || state === this.#state) return;
    this.#active.enter(this.#state, state, this.#labels);
    this.#state = state;
  }

  #received({ pages, wireBytes }: { readonly pages: object; readonly wireBytes: number }): void {
    this.#count('wireBytes', wireBytes);
    for (const [kind, count] of Object.entries(pages)) this.#count('pages', count as number, { kind });
  }

  #faults({ faults, pagesMissing }: FaultStatus): void {
    this.#count('faults', faults);
    this.#sink.set('missing', pagesMissing, this.#labels);
  }

  #count(metric: 'wireBytes' | 'pages' | 'faults', total: number, more: Labels = {}): void {
    const key = `${metric} ${more['kind'] ?? ''}`;
    const before = this.#counted.get(key) ?? 0;
    if (total <= before) return;
    this.#counted.set(key, total);
    this.#sink.add(metric, total - before, { ...this.#labels, ...more });
  }

  #ended(outcome: string, code: string): void {
    this.#sink.add('ended', 1, { ...this.#labels, outcome, code });
    if (this.#startedAt !== undefined) {
      this.#sink.record('duration', (this.#now() - this.#startedAt) / 1000, { ...this.#labels, outcome });
    }
    this.end();
  }
}

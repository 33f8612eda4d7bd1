/** `@godwit/observe/opentelemetry`: metrics and spans through `@opentelemetry/api`, which is an optional peer. docs/metrics.md has them all. */
import type { IncomingEvent, MigrationEvent } from '@godwit/core';
import { checkOptions } from '@godwit/core/pages';
import { type Counter, type Gauge, type Histogram, type Meter, metrics, type Tracer, trace } from '@opentelemetry/api';
import {
  type Labels,
  METRICS,
  type MetricDefinition,
  type MetricName,
  type MetricSink,
} from './metrics/metric-list.js';
import { spansOf } from './metrics/migration-spans.js';
import { Watcher, type Watching, type WatchOptions } from './metrics/watcher.js';
import type { Watched } from './observe.js';

export type { Labels } from './metrics/metric-list.js';
export type { Watching, WatchOptions } from './metrics/watcher.js';

const SCOPE = '@godwit/observe';

/** The meter and the tracer that are used. */
export interface TelemetryOptions {
  /** Default: `metrics.getMeter('@godwit/observe')`, from the SDK that the program has set up. */
  readonly meter?: Meter;
  /** Default: `trace.getTracer('@godwit/observe')`. */
  readonly tracer?: Tracer;
}

/**
 * The metrics and the spans of all watched migrations. A migration is one span, `godwit.migration`, which contains a span for each phase
 * and each round; the span that is active when `watch` is called is its parent.
 *
 * @example
 * const telemetry = new Telemetry();
 * telemetry.watch(migrate(vm, connector), { labels: { vm: 'web-7' } });
 */
export class Telemetry {
  readonly #tracer: Tracer;
  readonly #watcher: Watcher;

  constructor(options: TelemetryOptions = {}) {
    checkOptions<TelemetryOptions>('Telemetry', options, { meter: true, tracer: true });
    const { meter = metrics.getMeter(SCOPE), tracer = trace.getTracer(SCOPE) } = options;
    this.#tracer = tracer;
    this.#watcher = new Watcher(sinkOf(meter));
  }

  /** Watches a migration at its source: metrics and spans. Labels are attributes of both. */
  watch(migration: Watched<MigrationEvent, unknown>, options: WatchOptions = {}): Watching {
    const measured = this.#watcher.source(migration, options);
    const traced = spansOf(migration, this.#tracer, { ...options.labels });
    return {
      unsubscribe() {
        measured.unsubscribe();
        traced.unsubscribe();
      },
    };
  }

  /** Watches a migration at its destination: metrics. */
  watchIncoming(incoming: Watched<IncomingEvent, unknown>, options: WatchOptions = {}): Watching {
    return this.#watcher.destination(incoming, options);
  }
}

function sinkOf(meter: Meter): MetricSink {
  const made = new Map<MetricName, Counter | Gauge | Histogram>();
  for (const [name, definition] of Object.entries(METRICS) as [MetricName, MetricDefinition][]) {
    const { opentelemetry, help, unit, kind, buckets } = definition;
    const settings = { description: help, unit };
    if (kind === 'counter') made.set(name, meter.createCounter(opentelemetry, settings));
    else if (kind === 'gauge') made.set(name, meter.createGauge(opentelemetry, settings));
    else {
      const advice = { explicitBucketBoundaries: [...(buckets ?? [])] };
      made.set(name, meter.createHistogram(opentelemetry, { ...settings, advice }));
    }
  }
  return {
    add: (metric, value, labels: Labels) => (made.get(metric) as Counter).add(value, labels),
    set: (metric, value, labels: Labels) => (made.get(metric) as Gauge).record(value, labels),
    record: (metric, value, labels: Labels) => (made.get(metric) as Histogram).record(value, labels),
  };
}

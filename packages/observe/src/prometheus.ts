/** `@godwit/observe/prometheus`: metrics through prom-client, which is an optional peer. docs/metrics.md has them all. */
import type { IncomingEvent, MigrationEvent } from '@godwit/core';
import { checkOptions } from '@godwit/core/pages';
import { Counter, Gauge, Histogram, type Registry } from 'prom-client';
import {
  type Labels,
  METRICS,
  type MetricDefinition,
  type MetricName,
  type MetricSink,
} from './metrics/metric-list.js';
import { Watcher, type Watching, type WatchOptions } from './metrics/watcher.js';
import type { Watched } from './observe.js';

export type { Labels } from './metrics/metric-list.js';
export type { Watching, WatchOptions } from './metrics/watcher.js';

/** The form of the metrics. */
export interface PrometheusOptions {
  /** Names of the labels that `WatchOptions.labels` may have, beside `role`. Default: none. */
  readonly labelNames?: readonly string[];
}

/**
 * The metrics of all watched migrations, in a registry of prom-client. All metrics are in the registry from the start, so that a
 * counter of 0 is listed too, with its help text. A registry can have only one `PrometheusMetrics`.
 *
 * @throws Error of prom-client if the registry already has metrics of these names
 * @example
 * import { register } from 'prom-client';
 * const metrics = new PrometheusMetrics(register, { labelNames: ['vm'] });
 * metrics.watch(migrate(vm, connector), { labels: { vm: 'web-7' } });
 */
export class PrometheusMetrics {
  readonly #watcher: Watcher;

  constructor(registry: Registry, options: PrometheusOptions = {}) {
    checkOptions<PrometheusOptions>('PrometheusMetrics', options, { labelNames: true });
    this.#watcher = new Watcher(sinkOf(registry, options.labelNames ?? []));
  }

  /** Watches a migration at its source. */
  watch(migration: Watched<MigrationEvent, unknown>, options: WatchOptions = {}): Watching {
    return this.#watcher.source(migration, options);
  }

  /** Watches a migration at its destination. */
  watchIncoming(incoming: Watched<IncomingEvent, unknown>, options: WatchOptions = {}): Watching {
    return this.#watcher.destination(incoming, options);
  }
}

function sinkOf(registry: Registry, more: readonly string[]): MetricSink {
  const made = new Map<MetricName, Counter | Gauge | Histogram>();
  for (const [name, definition] of Object.entries(METRICS) as [MetricName, MetricDefinition][]) {
    const { prometheus, help, labels, kind, buckets } = definition;
    const settings = {
      name: prometheus,
      help,
      labelNames: ['role', ...more, ...labels],
      registers: [registry],
    };
    if (kind === 'counter') made.set(name, new Counter(settings));
    else if (kind === 'gauge') made.set(name, new Gauge(settings));
    else made.set(name, new Histogram({ ...settings, buckets: [...(buckets ?? [])] }));
  }
  return {
    add: (metric, value, labels: Labels) => (made.get(metric) as Counter).inc(labels, value),
    set: (metric, value, labels: Labels) => (made.get(metric) as Gauge).set(labels, value),
    record: (metric, value, labels: Labels) => (made.get(metric) as Histogram).observe(labels, value),
  };
}

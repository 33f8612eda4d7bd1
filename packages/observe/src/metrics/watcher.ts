import type { IncomingEvent, MigrationEvent } from '@godwit/core';
import { checkOptions } from '@godwit/core/pages';
import type { Watched } from '../observe.js';
import { ActiveStates } from './active-states.js';
import { DestinationMeter } from './destination-meter.js';
import type { Labels, MetricSink } from './metric-list.js';
import { SourceMeter } from './source-meter.js';

/** How one migration is measured. */
export interface WatchOptions {
  /**
   * Further labels of this migration's measurements; their names are the same for all migrations of one registry: `{ vm: 'web-7' }`.
   * Keep their values few.
   */
  readonly labels?: Labels;
  /** Milliseconds of a monotonic clock. Default: `performance.now`. */
  readonly now?: () => number;
}

const WATCH_OPTIONS: Readonly<Record<keyof WatchOptions, true>> = { labels: true, now: true };

/** Ends the watching. The migration goes on, and the counts stay. */
export interface Watching {
  /** Ends the watching; a second call does nothing. */
  unsubscribe(): void;
}

/** Measures migrations into one sink. */
export class Watcher {
  readonly #sink: MetricSink;
  readonly #active: ActiveStates;

  constructor(sink: MetricSink) {
    this.#sink = sink;
    this.#active = new ActiveStates(sink);
  }

  source(migration: Watched<MigrationEvent, unknown>, options: WatchOptions): Watching {
    checkOptions<WatchOptions>('watch', options, WATCH_OPTIONS);
    const { labels = {}, now = () => performance.now() } = options;
    return watching(migration, new SourceMeter(this.#sink, { role: 'source', ...labels }, this.#active, now));
  }

  destination(incoming: Watched<IncomingEvent, unknown>, options: WatchOptions): Watching {
    checkOptions<WatchOptions>('watchIncoming', options, WATCH_OPTIONS);
    const { labels = {}, now = () => performance.now() } = options;
    return watching(incoming, new DestinationMeter(this.#sink, { role: 'destination', ...labels }, this.#active, now));
  }
}

function watching<E>(events: Watched<E, unknown>, meter: { take(event: E): void; end(): void }): Watching {
  const subscription = events.subscribe((event) => meter.take(event));
  return {
    unsubscribe() {
      subscription.unsubscribe();
      meter.end();
    },
  };
}

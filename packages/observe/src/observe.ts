import type { IncomingEvent, IncomingStatus, MigrationEvent, MigrationStatus } from '@godwit/core';
import { checkOptions, GodwitError } from '@godwit/core/pages';
import { publishEvents } from './diagnostics.js';
import type { MigrationModel } from './model/migration-model.js';
import { ModelBuilder } from './model/model-builder.js';
import { PageServer, type ServeOptions } from './serve/page-server.js';

/** What can be observed: a `Migration`, an `IncomingMigration`, or an object that passes on their events from another process. */
export interface Watched<E, S> {
  readonly id?: string;
  /** Calls `next` for each event from now on, until `unsubscribe`. */
  subscribe(next: (event: E) => void): {
    /** Ends the calls. */
    unsubscribe(): void;
  };
  /** The current status; without it a viewer sees only what the events say. */
  status?(): S;
}

/** A migration at its source, in this process or another one. */
export type WatchedMigration = Watched<MigrationEvent, MigrationStatus>;
/** A migration at its destination, in this process or another one. */
export type WatchedIncoming = Watched<IncomingEvent, IncomingStatus>;

/** How a migration is observed. */
export interface ObserveOptions {
  /** The destination's side of the same migration, if it is in this process too. */
  readonly incoming?: WatchedIncoming;
  /** The heading of the page. Default: the migration's id. */
  readonly title?: string;
  /**
   * Limits that are in force, for a migration without `status()`: milliseconds, and bytes per second (0: no limit). A function is called
   * whenever the model is made, since `adjust` changes the limits without an event.
   */
  readonly limits?: LimitsInForce | (() => LimitsInForce);
  /** Milliseconds of a monotonic clock. Default: `performance.now`. */
  readonly now?: () => number;
}

/** The limits of a migration, as far as they are known. */
export interface LimitsInForce {
  /** Milliseconds. */
  readonly downtimeLimitMs?: number;
  /** Bytes per second; 0: no limit. */
  readonly bandwidthLimit?: number;
}

const OBSERVE_OPTIONS: Readonly<Record<keyof ObserveOptions, true>> = {
  incoming: true,
  title: true,
  limits: true,
  now: true,
};

const LIMITS: Readonly<Record<keyof LimitsInForce, true>> = { downtimeLimitMs: true, bandwidthLimit: true };

/**
 * Observes a migration until `close`. It keeps no handle open until `serve`, which shows the migration, and never controls the migration.
 *
 * @example
 * const observation = observe(migrate(vm, connector));
 * const page = await observation.serve({ port: 8080 });
 * console.log(page.url);
 */
export class Observation {
  readonly #builder: ModelBuilder;
  readonly #now: () => number;
  /** The value of `now()` when the migration began; undefined while that is not known. */
  #origin: number | undefined;
  readonly #source: WatchedMigration | undefined;
  readonly #incoming: WatchedIncoming | undefined;
  readonly #subscriptions: { unsubscribe(): void }[] = [];
  readonly #limits: (() => LimitsInForce) | undefined;
  readonly #servers = new Set<PageServer>();
  #closed = false;

  /** @internal Use `observe` or `observeIncoming`. */
  constructor(source: WatchedMigration | undefined, options: ObserveOptions) {
    checkOptions<ObserveOptions>('observe', options, OBSERVE_OPTIONS);
    const { now = () => performance.now(), incoming, limits } = options;
    if (limits !== undefined && typeof limits !== 'function') {
      checkOptions<LimitsInForce>('observe: limits', limits, LIMITS);
    }
    this.#limits = typeof limits === 'function' ? limits : undefined;
    this.#now = now;
    this.#source = source;
    this.#incoming = incoming;
    this.#builder = new ModelBuilder(options.title ?? titleOf(source?.id));
    this.#builder.startedAt = Date.now();
    const elapsedMs = source?.status?.().progress.elapsedMs;
    if (elapsedMs !== undefined) this.#began(elapsedMs);
    if (source !== undefined) {
      this.#builder.watchSource(source.id);
      if (limits !== undefined && typeof limits !== 'function') this.#builder.limits(limits);
      this.#subscriptions.push(source.subscribe((event) => this.#builder.source(event, this.#elapsedMs)));
      this.#subscriptions.push(publishEvents('source', source));
    }
    if (incoming !== undefined) {
      this.#builder.watchDestination();
      this.#subscriptions.push(incoming.subscribe((event) => this.#builder.destination(event, this.#elapsedMs)));
      this.#subscriptions.push(publishEvents('destination', incoming));
    }
    // Takes the limits, and what the status tells of a migration that has begun already.
    this.#poll();
  }

  /** The migration as it is now, as plain JSON of bounded size. */
  model(): MigrationModel {
    this.#poll();
    return this.#builder.model();
  }

  /**
   * Serves a live page until its `close`. The page is read-only. By default only this host reaches it, at a free port.
   *
   * @throws GodwitError GODWIT_SYSCALL where it cannot listen, GODWIT_INVALID_ARGUMENT, GODWIT_INVALID_STATE after `close`
   */
  async serve(options: ServeOptions = {}): Promise<PageServer> {
    if (!this.#closed) {
      const poll = () => this.#poll();
      const server = await PageServer.start(this.#builder, poll, options, () => this.#servers.delete(server));
      this.#servers.add(server);
      // The observation was closed while the server was being opened, so that this call has to close the server.
      if (!this.#closed) return server;
      await server.close();
    }
    throw new GodwitError('GODWIT_INVALID_STATE', 'the observation is closed: observe the migration anew to serve it');
  }

  /** Ends the observation: its pages are closed, and its model no longer changes. The migration goes on. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const subscription of this.#subscriptions) subscription.unsubscribe();
    await Promise.all([...this.#servers].map((server) => server.close()));
  }

  /** Closes the observation at the end of an `await using` block. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** Milliseconds since the migration began, or since its first event if no status tells when that was. */
  get #elapsedMs(): number {
    if (this.#origin === undefined) this.#began(0);
    return Math.max(0, this.#now() - (this.#origin ?? 0));
  }

  #began(elapsedMs: number): void {
    this.#origin = this.#now() - elapsedMs;
    this.#builder.startedAt = Date.now() - elapsedMs;
  }

  #poll(): void {
    if (this.#closed) return;
    // The status is asked after the end too, since `settle` and `recover` change who owns the guest.
    const [source, incoming] = [this.#source?.status?.(), this.#incoming?.status?.()];
    if (source === undefined && this.#limits !== undefined) this.#builder.limits(this.#limits());
    if (source !== undefined || incoming !== undefined) this.#builder.status(source, incoming, this.#elapsedMs);
    else if (this.#origin !== undefined) this.#builder.passed(this.#elapsedMs);
  }
}

/**
 * Observes a migration at its source, and with `incoming` at its destination too. An observation never controls the migration.
 *
 * @example
 * const migration = migrate(vm, connector);
 * const observation = observe(migration);
 * const page = await observation.serve({ port: 8080 }); // http://127.0.0.1:8080/
 * await migration.result;
 * await writeFile('migration.html', report(observation.model()));
 * await observation.close();
 */
export function observe(migration: WatchedMigration, options: ObserveOptions = {}): Observation {
  return new Observation(migration, options);
}

/**
 * Observes a migration at its destination, where the source is in another process.
 *
 * @example
 * const observation = observeIncoming(receive(links, { prepare }));
 * const page = await observation.serve();
 */
export function observeIncoming(
  incoming: WatchedIncoming,
  options: Omit<ObserveOptions, 'incoming'> = {},
): Observation {
  return new Observation(undefined, { ...options, incoming });
}

function titleOf(id: string | undefined): string {
  return id === undefined ? 'Migration' : `Migration ${id.slice(0, 8)}`;
}

import { abortable } from '../abortable.js';
import type { Clock } from '../clock.js';
import { GodwitError } from '../errors.js';
import { inTime } from '../in-time.js';
import type { IncomingLink, LinkListener } from '../link/migration-link.js';
import type { DestinationOwnershipState } from '../ownership/destination-ownership.js';
import type { HelloFrame } from '../protocol/frame.js';
import { closeStreams } from '../session/closing-message.js';
import { IncomingConnection } from './incoming-connection.js';
import { type Outcome, Outcomes } from './outcomes.js';

/**
 * The largest number of connections whose first frame is awaited, and of new migrations that wait for a `receive`. More of either
 * are refused.
 */
const MAXIMUM_PENDING = 64;

/** An incoming migration, as the router sees it: the router gives it the further connections of its source. */
export interface ConnectionTaker {
  /** Takes the connection, whose hello was read, or refuses it. */
  offer(connection: IncomingConnection): void;
  /** No further connection will come: the listener failed, or was closed. */
  noMoreConnections(error: GodwitError): void;
}

export interface ReceiverParts {
  readonly clock: Clock;
  readonly signal: AbortSignal;
  /** How long a connection may take to send its hello. Milliseconds. */
  readonly handshakeTimeoutMs: number;
  /** The only migration to be received; `undefined` for any. */
  readonly migrationId: string | undefined;
}

interface Waiter {
  readonly parts: ReceiverParts;
  resolve(connection: IncomingConnection): void;
  reject(error: GodwitError): void;
}

const routers = new WeakMap<LinkListener, ConnectionRouter>();

/** The router of `listener`, shared by all incoming migrations on it. */
export function connectionRouter(listener: LinkListener): ConnectionRouter {
  let router = routers.get(listener);
  if (router === undefined) {
    router = new ConnectionRouter(listener);
    routers.set(listener, router);
  }
  return router;
}

/**
 * Routes the connections of a listener by their hello: a further one of a known migration to its `receive`, a new migration to the
 * `receive` that is bound to its id, else to the `receive` that has waited longest. First frames are awaited concurrently, so that a
 * silent peer delays no other. A source that disconnects while it waits for a `receive` is dropped.
 *
 * The router accepts connections only while an incoming migration may need one.
 */
export class ConnectionRouter {
  readonly #listener: LinkListener;
  readonly #waiters: Waiter[] = [];
  /** New migrations that wait for a `receive`. */
  readonly #held: IncomingConnection[] = [];
  readonly #takers = new Map<string, ConnectionTaker>();
  readonly #outcomes = new Outcomes();
  /** Ids of migrations that were given to a `receive` in this turn of the event loop, which has not registered them yet. */
  readonly #handedOut = new Set<string>();
  /** Connections whose hello was not read yet. */
  readonly #greeting = new Set<IncomingConnection>();
  #parts: ReceiverParts | undefined;
  #accepting: AbortController | undefined;

  constructor(listener: LinkListener) {
    this.#listener = listener;
  }

  /** Resolves with the next new migration's connection; calls are served in their order. Rejects when `parts.signal` aborts. */
  async next(parts: ReceiverParts): Promise<IncomingConnection> {
    parts.signal.throwIfAborted();
    this.#parts = parts;
    const at = this.#held.findIndex(({ hello }) => wants(parts, hello));
    const [held] = at === -1 ? [] : this.#held.splice(at, 1);
    if (held !== undefined) {
      this.#handOut(held);
      return held;
    }
    let onAbort = () => {};
    const waiting = new Promise<IncomingConnection>((resolve, reject) => {
      const waiter: Waiter = { parts, resolve, reject };
      this.#waiters.push(waiter);
      onAbort = () => this.#forget(waiter);
      parts.signal.addEventListener('abort', onAbort, { once: true });
    });
    this.#serve();
    waiting.then(
      (connection) => {
        // A destination passes the same signal for each of many dry runs, and listeners would accumulate on it.
        parts.signal.removeEventListener('abort', onAbort);
        // The `receive` has given up in this same tick, and will not take the connection.
        if (parts.signal.aborted)
          this.#refuse(connection, GodwitError.wrap(parts.signal.reason, 'GODWIT_CANCELLED', 'gave up'));
      },
      () => {},
    );
    return abortable(waiting, parts.signal);
  }

  /** Gives further connections of this migration to `taker` from now on. */
  register(migrationId: string, taker: ConnectionTaker): void {
    this.#takers.set(migrationId, taker);
    this.#outcomes.delete(migrationId);
    this.#serve();
  }

  /** Ends the registration of a migration; the router answers later connections of it by `outcome`. */
  finish(migrationId: string, outcome: Outcome): void {
    this.#takers.delete(migrationId);
    this.#outcomes.set(migrationId, outcome);
    this.#rest();
  }

  get #wanted(): boolean {
    return this.#waiters.length > 0 || this.#takers.size > 0 || this.#held.length > 0 || this.#outcomes.awaited;
  }

  #serve(): void {
    if (this.#accepting !== undefined || !this.#wanted) return;
    const accepting = new AbortController();
    this.#accepting = accepting;
    this.#acceptAll(accepting).catch((error: unknown) => {
      if (this.#accepting === accepting) this.#accepting = undefined;
      // When the router stopped accepting by itself, a `receive` may have asked for a connection since.
      if (accepting.signal.aborted) this.#serve();
      else this.#fail(GodwitError.wrap(error, 'GODWIT_LINK_LOST', 'listening for the source failed'));
    });
  }

  async #acceptAll({ signal }: AbortController): Promise<never> {
    for (;;) {
      const link = await this.#listener.accept(signal);
      void this.#greet(link);
    }
  }

  /** Stops accepting when no incoming migration may need a connection. */
  #rest(): void {
    if (this.#wanted) return;
    const accepting = this.#accepting;
    this.#accepting = undefined;
    const over = new GodwitError('GODWIT_CANCELLED', 'no incoming migration waits for a connection here any more');
    accepting?.abort(over);
    for (const connection of this.#greeting) connection.end(over);
  }

  #fail(error: GodwitError): void {
    for (const waiter of this.#waiters.splice(0)) waiter.reject(error);
    for (const connection of this.#held.splice(0)) this.#refuse(connection, error);
    for (const taker of this.#takers.values()) taker.noMoreConnections(error);
    this.#outcomes.clear();
  }

  #forget(waiter: Waiter): void {
    const at = this.#waiters.indexOf(waiter);
    if (at !== -1) this.#waiters.splice(at, 1);
    this.#rest();
  }

  async #greet(link: IncomingLink): Promise<void> {
    const { clock, handshakeTimeoutMs } = this.#parts as ReceiverParts;
    if (this.#greeting.size >= MAXIMUM_PENDING) {
      const message = `${MAXIMUM_PENDING} connections are waiting to say hello already; try again later`;
      const error = new GodwitError('GODWIT_LIMIT_EXCEEDED', message, { retry: true });
      void closeStreams([link.control], clock, { error, retry: true });
      return;
    }
    const connection = new IncomingConnection(link, clock);
    this.#greeting.add(connection);
    try {
      await connection.greeting(handshakeTimeoutMs);
      this.#greeting.delete(connection);
      this.#route(connection);
    } catch (error) {
      this.#greeting.delete(connection);
      this.#refuse(connection, GodwitError.wrap(error, 'GODWIT_PROTOCOL', 'the first frame could not be read'));
    }
  }

  #route(connection: IncomingConnection): void {
    const { hello } = connection;
    const { migrationId, stage } = hello;
    const taker = this.#takers.get(migrationId);
    const outcome = this.#outcomes.get(migrationId);
    if (taker !== undefined) taker.offer(connection);
    else if (outcome !== undefined) void this.#answerFor(connection, outcome);
    else if (this.#handedOut.has(migrationId)) this.#refuse(connection, beingTaken(hello));
    else if (stage !== 'running' && stage !== 'dryRun') this.#refuse(connection, unknownMigration(hello));
    else {
      const waiter = this.#waiterFor(hello);
      if (waiter === undefined) this.#hold(connection);
      else {
        this.#handOut(connection);
        waiter.resolve(connection);
      }
    }
  }

  #waiterFor(hello: HelloFrame): Waiter | undefined {
    const bound = this.#waiters.findIndex(({ parts }) => parts.migrationId === hello.migrationId);
    const at = bound !== -1 ? bound : this.#waiters.findIndex(({ parts }) => wants(parts, hello));
    return at === -1 ? undefined : this.#waiters.splice(at, 1)[0];
  }

  /** Notes that the migration was given out, so that two waiting connections of one source do not become two incoming migrations. */
  #handOut({ hello: { migrationId } }: IncomingConnection): void {
    this.#handedOut.add(migrationId);
    const registered = () => void this.#handedOut.delete(migrationId);
    void (this.#parts as ReceiverParts).clock.yield().then(registered);
  }

  /** Holds a new migration until a `receive` takes it. The time limit is the source's own. */
  #hold(connection: IncomingConnection): void {
    const { migrationId } = connection.hello;
    const older = this.#held.findIndex(({ hello }) => hello.migrationId === migrationId);
    if (older !== -1) {
      const [gone] = this.#held.splice(older, 1);
      this.#refuse(gone as IncomingConnection, superseded(connection.hello));
    }
    if (this.#held.length >= MAXIMUM_PENDING) {
      const message = `${MAXIMUM_PENDING} migrations wait here already; try again later`;
      this.#refuse(connection, new GodwitError('GODWIT_LIMIT_EXCEEDED', message, { retry: true }));
      return;
    }
    this.#held.push(connection);
    const onGone = () => {
      const at = this.#held.indexOf(connection);
      if (at === -1) return;
      this.#held.splice(at, 1);
      this.#refuse(connection, connection.signal.reason as GodwitError);
      this.#rest();
    };
    connection.signal.addEventListener('abort', onGone, { once: true });
    if (connection.signal.aborted) onGone();
  }

  /** Tells a source that reconnects how its migration ended here. */
  async #answerFor(connection: IncomingConnection, outcome: Outcome): Promise<void> {
    const { state, reason, incarnation, resumeMs, sinceReadyMs } = outcome;
    const { migrationId, stage } = connection.hello;
    if (state === 'abandoned' || state === 'stranded') {
      this.#refuse(connection, endedHere(state, reason));
      this.#tell(migrationId);
      return;
    }
    if (stage !== 'handedOver') {
      this.#refuse(connection, wrongStage(connection.hello, state));
      return;
    }
    const { clock, handshakeTimeoutMs } = this.#parts as ReceiverParts;
    try {
      connection.serve(
        () => 'taking-over',
        ({ frame }) => void connection.answer(frame),
      );
      const answer = { type: 'resumed', state: 'running', round: 0, deviceSequences: [], deviceResets: [] } as const;
      const released = connection.ask({ ...answer, incarnation, resumeMs, sinceReadyMs }, 'released');
      await inTime(released, clock, handshakeTimeoutMs, () => new GodwitError('GODWIT_TIMEOUT', 'no "released"'));
      this.#tell(migrationId);
    } catch {
      // The source may connect and ask again.
    }
    await connection.close(undefined);
  }

  #tell(migrationId: string): void {
    this.#outcomes.tell(migrationId);
    this.#rest();
  }

  #refuse(connection: IncomingConnection, error: GodwitError): void {
    refuse(connection, error);
  }
}

/** Sends `error` to the source, as the reason why its connection is not taken, and closes the connection. */
export function refuse(connection: IncomingConnection, error: GodwitError): void {
  void connection.close(error, error.retry);
}

function wants({ migrationId }: ReceiverParts, hello: HelloFrame): boolean {
  return migrationId === undefined || migrationId === hello.migrationId;
}

export function superseded(by: HelloFrame): GodwitError {
  return new GodwitError('GODWIT_LINK_LOST', `connection ${by.connection} of the source replaces this one`);
}

/** The error for a hello whose stage contradicts the state of the migration at this destination. */
export function wrongStage({ stage, migrationId, attempt }: HelloFrame, state: DestinationOwnershipState): GodwitError {
  return new GodwitError(
    'GODWIT_PROTOCOL',
    `the hello is of a source that is "${stage}" (attempt ${attempt}), but migration ${migrationId} is "${state}" here`,
  );
}

function beingTaken({ migrationId }: HelloFrame): GodwitError {
  const message = `another connection of migration ${migrationId} is just being taken`;
  return new GodwitError('GODWIT_LIMIT_EXCEEDED', message, { retry: true });
}

function unknownMigration({ migrationId, stage }: HelloFrame): GodwitError {
  return new GodwitError(
    'GODWIT_UNKNOWN_MIGRATION',
    `the source is "${stage}", but no migration ${migrationId} is known here: it was never received by this process, or long ago`,
  );
}

/** The error for a migration that has ended here for good: it is never retried. */
function endedHere(state: DestinationOwnershipState, reason: GodwitError | undefined): GodwitError {
  const why = reason === undefined ? '' : `: ${reason.message}`;
  const passing = ['GODWIT_LINK_LOST', 'GODWIT_TIMEOUT', 'GODWIT_LIMIT_EXCEEDED', 'GODWIT_CONNECT_FAILED'];
  const code = reason === undefined || passing.includes(reason.code) ? 'GODWIT_UNKNOWN_MIGRATION' : reason.code;
  return new GodwitError(code, `the migration is "${state}" here${why}`, { retry: false });
}

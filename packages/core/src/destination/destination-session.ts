import { GodwitError } from '../errors.js';
import type { LinkListener } from '../link/migration-link.js';
import { FirstCause } from '../session/first-cause.js';
import { type ConnectionRouter, connectionRouter, type ReceiverParts } from './connection-router.js';
import type { IncomingConnection } from './incoming-connection.js';
import type { Outcome } from './outcomes.js';
import { ReturningSource, type ReturningSourceParts } from './returning-source.js';

/**
 * All connections of a migration at its destination, over its whole life: one at a time, each replacing the one before. It also keeps
 * the first cause of the end.
 */
export class DestinationSession {
  readonly end = new FirstCause();
  readonly #router: ConnectionRouter;
  #current: IncomingConnection | undefined;
  #returns: ReturningSource | undefined;
  #migrationId: string | undefined;
  /** Bytes read from connections that are over. */
  #pastBytes = 0;
  /** True after the last connection was lost, until the source has reconnected. */
  linkLost = false;
  /** Why the last lost connection was lost. */
  lastLoss: GodwitError | undefined;
  /** True when the source knows how the migration ended: this side has told it, or a frame of the source shows it. */
  told = false;

  constructor(listener: LinkListener) {
    this.#router = connectionRouter(listener);
  }

  /** Aborts when the migration ends before this side owns the guest, with the first cause. */
  get signal(): AbortSignal {
    return this.end.signal;
  }

  /** The present connection; `undefined` once it was dropped. */
  get current(): IncomingConnection | undefined {
    return this.#current;
  }

  get migrationId(): string | undefined {
    return this.#migrationId;
  }

  get bytesRead(): number {
    return this.#pastBytes + (this.#current?.bytesRead ?? 0);
  }

  /** Resolves with the connection of the next source that sends a hello. */
  async first(parts: Omit<ReceiverParts, 'signal'>): Promise<IncomingConnection> {
    const connection = await this.#router.next({ ...parts, signal: this.signal });
    return this.#use(connection);
  }

  /** Registers the migration with the router: further connections of it come here from now on. */
  register(connection: IncomingConnection, parts: Omit<ReturningSourceParts, 'current'>): void {
    const { hello } = connection;
    this.#migrationId = hello.migrationId;
    this.#returns = new ReturningSource(hello, { ...parts, current: () => this.#current });
    this.#router.register(hello.migrationId, this.#returns);
  }

  /** Resolves with the source's next connection. Rejects when `signal` aborts, or no further connection can come. */
  async next(signal: AbortSignal): Promise<IncomingConnection> {
    const returns = this.#returns;
    if (returns === undefined) throw new GodwitError('GODWIT_INTERNAL', 'nothing was registered');
    const connection = await returns.next(signal);
    this.linkLost = false;
    return this.#use(connection);
  }

  /** Drops the present connection. Resolves when nothing of it touches guest memory. */
  async drop(reason: GodwitError): Promise<void> {
    const connection = this.#current;
    this.#current = undefined;
    if (connection === undefined) return;
    await connection.drop(reason);
    this.#pastBytes += connection.bytesRead;
  }

  /** Refuses every further connection of this migration with `error`. */
  closeReturns(error: GodwitError): void {
    this.#returns?.close(error);
  }

  /** Ends the registration: the router answers further connections of this migration by `outcome`. */
  finish(outcome: Omit<Outcome, 'told'>): void {
    this.closeReturns(outcome.reason ?? new GodwitError('GODWIT_LINK_LOST', 'the migration is over'));
    if (this.#migrationId === undefined || this.#returns === undefined) return;
    this.#router.finish(this.#migrationId, { ...outcome, told: this.told });
  }

  #use(connection: IncomingConnection): IncomingConnection {
    this.#current = connection;
    connection.follow(this.signal);
    return connection;
  }
}

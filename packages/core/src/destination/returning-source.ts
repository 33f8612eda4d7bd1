import { GodwitError } from '../errors.js';
import type { DestinationOwnershipEvent, DestinationOwnershipState } from '../ownership/destination-ownership.js';
import type { Ownership } from '../ownership/ownership.js';
import type { HelloFrame, HelloStage } from '../protocol/frame.js';
import { type ConnectionTaker, refuse, superseded, wrongStage } from './connection-router.js';
import type { IncomingConnection } from './incoming-connection.js';

/** The legal stages of a source that reconnects, for each state of the destination's ownership. */
const STAGES: Readonly<Partial<Record<DestinationOwnershipState, readonly HelloStage[]>>> = {
  receiving: ['running', 'paused', 'kept'],
  ready: ['running', 'paused', 'handedOver', 'kept'],
  asking: ['handedOver'],
  // Every stage is legal: the hello is answered only after the authority has answered.
  recovering: ['running', 'paused', 'handedOver', 'kept'],
  running: ['handedOver'],
};

export interface ReturningSourceParts {
  readonly ownership: Ownership<DestinationOwnershipState, DestinationOwnershipEvent>;
  readonly current: () => IncomingConnection | undefined;
  /** The attempt that the destination knows. */
  readonly attempt: () => number;
}

/**
 * The further connections of one migration. The latest one counts: it replaces the present one, whose link may be lost without TCP having
 * noticed, and a connection that still waits to be taken. A connection with an equal or lower number is refused.
 */
export class ReturningSource implements ConnectionTaker {
  readonly #first: HelloFrame;
  readonly #parts: ReturningSourceParts;
  #highest: number;
  #coming: IncomingConnection | undefined;
  #waiter: { resolve(connection: IncomingConnection): void; reject(error: GodwitError): void } | undefined;
  #closed: GodwitError | undefined;

  constructor(first: HelloFrame, parts: ReturningSourceParts) {
    this.#first = first;
    this.#parts = parts;
    this.#highest = first.connection;
  }

  offer(connection: IncomingConnection): void {
    const { hello } = connection;
    const refusal = this.#refusal(hello);
    if (refusal !== undefined) {
      refuse(connection, refusal);
      return;
    }
    this.#highest = hello.connection;
    const over = superseded(hello);
    if (this.#coming !== undefined) refuse(this.#coming, over);
    this.#coming = undefined;
    this.#parts.current()?.end(over);
    const waiter = this.#waiter;
    this.#waiter = undefined;
    if (waiter === undefined) this.#coming = connection;
    else waiter.resolve(connection);
  }

  /**
   * Resolves with the source's next connection, after the present one was lost. One call may wait at a time. A call whose `signal` has
   * aborted rejects without taking a connection, which the next call then gets.
   */
  next(signal: AbortSignal): Promise<IncomingConnection> {
    if (signal.aborted) return Promise.reject(signal.reason);
    const coming = this.#coming;
    this.#coming = undefined;
    if (coming !== undefined && !coming.signal.aborted) {
      const refusal = this.#wrongStage(coming.hello);
      if (refusal === undefined) return Promise.resolve(coming);
      refuse(coming, refusal);
    }
    if (this.#closed !== undefined) return Promise.reject(this.#closed);
    return new Promise((resolve, reject) => {
      const onAbort = () => {
        if (this.#waiter === waiter) this.#waiter = undefined;
        reject(signal.reason);
      };
      const leave = () => signal.removeEventListener('abort', onAbort);
      const waiter = {
        resolve: (connection: IncomingConnection) => {
          leave();
          resolve(connection);
        },
        reject: (error: GodwitError) => {
          leave();
          reject(error);
        },
      };
      this.#waiter = waiter;
      signal.addEventListener('abort', onAbort, { once: true });
    });
  }

  noMoreConnections(error: GodwitError): void {
    // While everything is loaded (`ready`) the wait goes on: the embedder may still `recover` or `cancel`.
    if (this.#parts.ownership.state !== 'ready') this.close(error);
  }

  /** Refuses every further connection with `error`. */
  close(error: GodwitError): void {
    this.#closed ??= error;
    this.#waiter?.reject(error);
    this.#waiter = undefined;
    const coming = this.#coming;
    this.#coming = undefined;
    if (coming !== undefined) refuse(coming, this.#askAgain(coming.hello) ?? final(error));
  }

  /**
   * The error for a source past `go` that connects while the incoming migration is about to end with the guest running here: the source is
   * to ask again, and the router then answers. A final error would not tell it that the guest runs here.
   */
  #askAgain({ stage }: HelloFrame): GodwitError | undefined {
    const { ownership } = this.#parts;
    if (stage !== 'handedOver' || !ownership.final || !ownership.mayRunGuest) return undefined;
    return new GodwitError('GODWIT_TIMEOUT', `the guest is "${ownership.state}" here; ask again in a moment`);
  }

  #refusal(hello: HelloFrame): GodwitError | undefined {
    const later = this.#askAgain(hello);
    if (later !== undefined) return later;
    if (this.#closed !== undefined) return final(this.#closed);
    if (!(Number.isSafeInteger(hello.connection) && hello.connection > this.#highest)) {
      return new GodwitError(
        'GODWIT_PROTOCOL',
        `connection ${hello.connection} of a migration whose connection ${this.#highest} has come already`,
      );
    }
    const wrong = this.#wrongStage(hello);
    if (wrong !== undefined) return wrong;
    if (sameVm(hello) !== sameVm(this.#first)) {
      return new GodwitError(
        'GODWIT_PROTOCOL',
        'the source came back with another page size, other RAM blocks or devices',
      );
    }
    return undefined;
  }

  /**
   * The error for a stage or an attempt that contradicts the state here. A source whose guest runs has given up every attempt before its
   * next one; a source whose guest is paused is in the attempt that the destination knows.
   */
  #wrongStage(hello: HelloFrame): GodwitError | undefined {
    const { ownership, attempt } = this.#parts;
    const { state } = ownership;
    const known = attempt();
    const legal = STAGES[state]?.includes(hello.stage) ?? false;
    const least = hello.stage === 'running' && state === 'ready' ? known + 1 : known;
    if (legal && (hello.stage === 'kept' || hello.attempt >= least)) return undefined;
    return wrongStage(hello, state);
  }
}

/** Returns `error` as one that is not retried: the migration is over. */
function final(error: GodwitError): GodwitError {
  return error.retry ? new GodwitError(error.code, error.message, { cause: error, retry: false }) : error;
}

/** A text of everything that must be equal in all hellos of one migration. */
function sameVm({ pageSize, blocks, devices, features }: HelloFrame): string {
  return JSON.stringify([pageSize, blocks, devices.map(({ id, version }) => [id, version]), features]);
}

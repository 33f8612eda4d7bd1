import { GodwitError } from '../errors.js';
import type { DestinationOwnershipEvent, DestinationOwnershipState } from '../ownership/destination-ownership.js';
import type { Ownership } from '../ownership/ownership.js';
import type { HelloFrame, HelloStage } from '../protocol/frame.js';
import { type ConnectionTaker, refuse, superseded, wrongStage } from './connection-router.js';
import type { IncomingConnection } from './incoming-connection.js';

/** What a source can be that comes back, by where the destination's ownership stands. */
const STAGES: Readonly<Partial<Record<DestinationOwnershipState, readonly HelloStage[]>>> = {
  receiving: ['running', 'paused', 'kept'],
  ready: ['running', 'paused', 'handedOver', 'kept'],
  asking: ['handedOver'],
  // Answered once the authority has: until then it waits.
  recovering: ['running', 'paused', 'handedOver', 'kept'],
  running: ['handedOver'],
};

export interface ReturningSourceParts {
  readonly ownership: Ownership<DestinationOwnershipState, DestinationOwnershipEvent>;
  readonly current: () => IncomingConnection | undefined;
  /** The stop-and-copy that is known of here. */
  readonly attempt: () => number;
}

/**
 * Further connections of one migration. The latest counts: it takes the place of the one that is in use, which may only seem
 * alive (TCP may not have noticed), and of one that has not been taken yet. An equal or lower number is refused.
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

  /** The next connection of the source, once the one in use is lost. One call at a time. */
  next(): Promise<IncomingConnection> {
    const coming = this.#coming;
    this.#coming = undefined;
    if (coming !== undefined && !coming.signal.aborted) {
      const refusal = this.#wrongStage(coming.hello);
      if (refusal === undefined) return Promise.resolve(coming);
      refuse(coming, refusal);
    }
    if (this.#closed !== undefined) return Promise.reject(this.#closed);
    return new Promise((resolve, reject) => {
      this.#waiter = { resolve, reject };
    });
  }

  noMoreConnections(error: GodwitError): void {
    // A complete guest waits on: the embedder may still recover it, or give up.
    if (this.#parts.ownership.state !== 'ready') this.close(error);
  }

  /** No further connection is wanted. */
  close(error: GodwitError): void {
    this.#closed ??= error;
    this.#waiter?.reject(error);
    this.#waiter = undefined;
    const coming = this.#coming;
    this.#coming = undefined;
    if (coming !== undefined) refuse(coming, this.#askAgain(coming.hello) ?? final(error));
  }

  /**
   * The guest runs here, and the incoming migration is about to end: the router says so in a moment. A final answer would leave the
   * source without knowing.
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

  /** A source whose guest runs has given up every attempt before its next one; one that is paused is in the one that is known here. */
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

/** The migration is over: the source is not to come back. */
function final(error: GodwitError): GodwitError {
  return error.retry ? new GodwitError(error.code, error.message, { cause: error, retry: false }) : error;
}

/** What must not change between the hellos of one migration. */
function sameVm({ pageSize, blocks, devices, features }: HelloFrame): string {
  return JSON.stringify([pageSize, blocks, devices.map(({ id, version }) => [id, version]), features]);
}

import type { Clock } from '../clock.js';
import { GodwitError } from '../errors.js';
import type { DestinationOwnershipEvent, DestinationOwnershipState } from '../ownership/destination-ownership.js';
import type { Ownership } from '../ownership/ownership.js';
import type { HelloFrame, HelloStage } from '../protocol/frame.js';
import type { IncomingConnection } from './incoming-connection.js';
import { type LinkTaker, type PendingConnection, refuseLink, superseded, wrongStage } from './incoming-links.js';

/** What a source can be that comes back, by where the destination's ownership stands. */
const STAGES: Readonly<Partial<Record<DestinationOwnershipState, readonly HelloStage[]>>> = {
  receiving: ['running', 'kept'],
  ready: ['handedOver', 'kept'],
  running: ['handedOver'],
};

export interface SourceReturnsParts {
  readonly clock: Clock;
  readonly ownership: Ownership<DestinationOwnershipState, DestinationOwnershipEvent>;
}

/**
 * Further links of one migration. The latest counts: it takes the place of the one that is in use, which may only seem
 * alive (TCP may not have noticed), and of one that has not been taken yet. An equal or lower number is refused.
 */
export class SourceReturns implements LinkTaker {
  readonly #first: HelloFrame;
  readonly #parts: SourceReturnsParts;
  readonly #current: () => IncomingConnection | undefined;
  #highest: number;
  #coming: PendingConnection | undefined;
  #waiter: { resolve(pending: PendingConnection): void; reject(error: GodwitError): void } | undefined;
  #closed: GodwitError | undefined;

  constructor(first: HelloFrame, parts: SourceReturnsParts, current: () => IncomingConnection | undefined) {
    this.#first = first;
    this.#parts = parts;
    this.#current = current;
    this.#highest = first.connection;
  }

  offer(pending: PendingConnection): void {
    const { hello, link } = pending;
    const { clock, ownership } = this.#parts;
    const refusal = this.#refusal(hello, ownership.state);
    if (refusal !== undefined) {
      refuseLink(link, refusal, clock);
      return;
    }
    this.#highest = hello.connection;
    const over = superseded(hello);
    if (this.#coming !== undefined) refuseLink(this.#coming.link, over, clock);
    this.#coming = undefined;
    this.#current()?.end(over);
    const waiter = this.#waiter;
    this.#waiter = undefined;
    if (waiter === undefined) this.#coming = pending;
    else waiter.resolve(pending);
  }

  /** The next link of the source, once the one in use is lost. One call at a time. */
  next(): Promise<PendingConnection> {
    const { ownership } = this.#parts;
    const coming = this.#coming;
    this.#coming = undefined;
    if (coming !== undefined && STAGES[ownership.state]?.includes(coming.hello.stage)) return Promise.resolve(coming);
    if (coming !== undefined) refuseLink(coming.link, wrongStage(coming.hello, ownership.state), this.#parts.clock);
    if (this.#closed !== undefined) return Promise.reject(this.#closed);
    return new Promise((resolve, reject) => {
      this.#waiter = { resolve, reject };
    });
  }

  noMoreLinks(error: GodwitError): void {
    // A complete guest waits on: the embedder may still recover it, or give up.
    if (this.#parts.ownership.state !== 'ready') this.close(error);
  }

  /** No further link is wanted. */
  close(error: GodwitError): void {
    this.#closed ??= error;
    this.#waiter?.reject(error);
    this.#waiter = undefined;
    const coming = this.#coming;
    this.#coming = undefined;
    if (coming !== undefined) refuseLink(coming.link, this.#askAgain(coming.hello) ?? error, this.#parts.clock);
  }

  /**
   * The guest runs here, and the incoming migration is about to end: the router says so in a moment. What the source takes for the
   * last word would leave it without knowing.
   */
  #askAgain({ stage }: HelloFrame): GodwitError | undefined {
    const { ownership } = this.#parts;
    if (stage !== 'handedOver' || !ownership.final || !ownership.mayRunGuest) return undefined;
    return new GodwitError('GODWIT_TIMEOUT', `the guest is "${ownership.state}" here; ask again in a moment`);
  }

  #refusal(hello: HelloFrame, state: DestinationOwnershipState): GodwitError | undefined {
    const later = this.#askAgain(hello);
    if (later !== undefined) return later;
    if (this.#closed !== undefined) return this.#closed;
    if (!(Number.isSafeInteger(hello.connection) && hello.connection > this.#highest)) {
      return new GodwitError(
        'GODWIT_PROTOCOL',
        `connection ${hello.connection} of a migration whose connection ${this.#highest} has come already`,
      );
    }
    if (!STAGES[state]?.includes(hello.stage)) return wrongStage(hello, state);
    if (sameVm(hello) !== sameVm(this.#first)) {
      return new GodwitError(
        'GODWIT_PROTOCOL',
        'the source came back with another page size, other RAM blocks or devices',
      );
    }
    return undefined;
  }
}

/** What must not change between the hellos of one migration. */
function sameVm({ pageSize, blocks, devices, features }: HelloFrame): string {
  return JSON.stringify([pageSize, blocks, devices, features]);
}

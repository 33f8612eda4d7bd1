import { abortable } from '../abortable.js';
import type { Clock } from '../clock.js';
import { GodwitError } from '../errors.js';
import { inTime } from '../in-time.js';
import { closeWithMessage } from '../link/closing-message.js';
import type { IncomingLink, LinkListener } from '../link/migration-link.js';
import type { DestinationOwnershipState } from '../ownership/destination-ownership.js';
import type { HelloFrame } from '../protocol/frame.js';
import { readHello } from './handshake.js';
import { SourceFrames } from './source-frames.js';

/** Links whose first frame is awaited, and new migrations that no `receive` has taken yet; further links are refused. */
const MAXIMUM_PENDING = 64;

/** Migrations that are over and remembered, so that a source that missed the end can be told. */
const MOST_REMEMBERED = 64;

/** A link whose source has said hello. */
export interface PendingConnection {
  readonly link: IncomingLink;
  readonly frames: SourceFrames;
  readonly hello: HelloFrame;
}

/** An incoming migration that further links of its migration are for. */
export interface LinkTaker {
  /** Takes the link, or refuses it. */
  offer(pending: PendingConnection): void;
  /** No further link will come: the listener failed, or was closed. */
  noMoreLinks(error: GodwitError): void;
}

/** How a migration ended here. */
export interface Outcome {
  readonly state: DestinationOwnershipState;
  /** Why, where it did not go well. */
  readonly reason: GodwitError | undefined;
  /** The source has heard of it: nobody will ask. */
  readonly told: boolean;
}

export interface ReceiverParts {
  readonly clock: Clock;
  readonly signal: AbortSignal;
  /** How long a link has to say hello. Milliseconds. */
  readonly handshakeTimeoutMs: number;
}

interface Waiter {
  readonly parts: ReceiverParts;
  resolve(pending: PendingConnection): void;
  reject(error: GodwitError): void;
}

const routers = new WeakMap<LinkListener, IncomingLinks>();

/** The router of `listener`, shared by all incoming migrations on it. */
export function incomingLinks(listener: LinkListener): IncomingLinks {
  let router = routers.get(listener);
  if (router === undefined) {
    router = new IncomingLinks(listener);
    routers.set(listener, router);
  }
  return router;
}

/**
 * Sorts the links of a listener by their hello: further links of a known migration to its `receive`, new migrations to the
 * `receive` that waits longest. First frames are awaited side by side, so that a silent peer holds up nobody.
 *
 * It accepts links only as long as somebody may want one.
 */
export class IncomingLinks {
  readonly #listener: LinkListener;
  readonly #waiters: Waiter[] = [];
  /** New migrations that nobody waits for yet. */
  readonly #held: PendingConnection[] = [];
  readonly #takers = new Map<string, LinkTaker>();
  readonly #outcomes = new Map<string, Outcome>();
  /** Migrations that were handed out in this turn of the event loop: their incoming migrations have not registered yet. */
  readonly #handedOut = new Set<string>();
  #pending = 0;
  /** Ends the waiting for first frames. */
  #greeting = new AbortController();
  #parts: ReceiverParts | undefined;
  #accepting: AbortController | undefined;

  constructor(listener: LinkListener) {
    this.#listener = listener;
  }

  /** The next new migration. Those who wait are served in the order of their calls. */
  async next(parts: ReceiverParts): Promise<PendingConnection> {
    parts.signal.throwIfAborted();
    this.#parts = parts;
    const held = this.#held.shift();
    if (held !== undefined) {
      this.#handOut(held);
      return held;
    }
    const waiting = new Promise<PendingConnection>((resolve, reject) => {
      const waiter: Waiter = { parts, resolve, reject };
      this.#waiters.push(waiter);
      parts.signal.addEventListener('abort', () => this.#forget(waiter), { once: true });
    });
    this.#serve();
    waiting.then(
      ({ link }) => {
        // It comes to nobody: whoever waited has given up in this moment.
        if (parts.signal.aborted)
          this.#refuse(link, GodwitError.wrap(parts.signal.reason, 'GODWIT_CANCELLED', 'gave up'));
      },
      () => {},
    );
    return abortable(waiting, parts.signal);
  }

  /** From now on further links of this migration are for `taker`. */
  register(migrationId: string, taker: LinkTaker): void {
    this.#takers.set(migrationId, taker);
    this.#outcomes.delete(migrationId);
    this.#serve();
  }

  /** The migration is over here. */
  finish(migrationId: string, outcome: Outcome): void {
    this.#takers.delete(migrationId);
    this.#outcomes.delete(migrationId);
    this.#outcomes.set(migrationId, outcome);
    if (this.#outcomes.size > MOST_REMEMBERED) this.#outcomes.delete(this.#outcomes.keys().next().value as string);
    this.#rest();
  }

  get #wanted(): boolean {
    if (this.#waiters.length > 0 || this.#takers.size > 0 || this.#held.length > 0) return true;
    for (const { told } of this.#outcomes.values()) if (!told) return true;
    return false;
  }

  #serve(): void {
    if (this.#accepting !== undefined || !this.#wanted) return;
    const accepting = new AbortController();
    this.#accepting = accepting;
    this.#acceptAll(accepting).catch((error: unknown) => {
      if (this.#accepting === accepting) this.#accepting = undefined;
      // Given up by ourselves: somebody may have come to want links in the meantime.
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

  /** Stops accepting when nobody wants a link any more: the listener may serve somebody else. */
  #rest(): void {
    if (this.#wanted) return;
    const accepting = this.#accepting;
    this.#accepting = undefined;
    const over = new GodwitError('GODWIT_CANCELLED', 'no incoming migration waits for a link here any more');
    accepting?.abort(over);
    this.#greeting.abort(over);
    this.#greeting = new AbortController();
  }

  #fail(error: GodwitError): void {
    for (const waiter of this.#waiters.splice(0)) waiter.reject(error);
    for (const { link } of this.#held.splice(0)) this.#refuse(link, error);
    for (const taker of this.#takers.values()) taker.noMoreLinks(error);
    this.#outcomes.clear();
  }

  #forget(waiter: Waiter): void {
    const at = this.#waiters.indexOf(waiter);
    if (at !== -1) this.#waiters.splice(at, 1);
    this.#rest();
  }

  async #greet(link: IncomingLink): Promise<void> {
    const { clock, handshakeTimeoutMs } = this.#parts as ReceiverParts;
    if (this.#pending >= MAXIMUM_PENDING) {
      const message = `${MAXIMUM_PENDING} links are waiting to say hello already; try again later`;
      this.#refuse(link, new GodwitError('GODWIT_LIMIT_EXCEEDED', message));
      return;
    }
    this.#pending++;
    try {
      const frames = new SourceFrames(link.control);
      const { signal } = this.#greeting;
      const hello = await readHello(frames, { clock, signal, handshakeTimeoutMs });
      this.#route({ link, frames, hello });
    } catch (error) {
      this.#refuse(link, GodwitError.wrap(error, 'GODWIT_PROTOCOL', 'the first frame could not be read'));
    } finally {
      this.#pending--;
    }
  }

  #route(pending: PendingConnection): void {
    const { hello, link } = pending;
    const { migrationId, stage } = hello;
    const taker = this.#takers.get(migrationId);
    const outcome = this.#outcomes.get(migrationId);
    if (taker !== undefined) taker.offer(pending);
    else if (outcome !== undefined) void this.#answerFor(pending, outcome);
    else if (this.#handedOut.has(migrationId)) this.#refuse(link, beingTaken(hello));
    else if (stage !== 'running') this.#refuse(link, unknownMigration(hello));
    else {
      const waiter = this.#waiters.shift();
      if (waiter === undefined) this.#hold(pending);
      else {
        this.#handOut(pending);
        waiter.resolve(pending);
      }
    }
  }

  /** Two links of one source that were waiting together must not become two incoming migrations. */
  #handOut({ hello: { migrationId } }: PendingConnection): void {
    this.#handedOut.add(migrationId);
    const registered = () => void this.#handedOut.delete(migrationId);
    void (this.#parts as ReceiverParts).clock.yield().then(registered);
  }

  /** Nobody waits for a new migration now; somebody may, soon. The source's own patience is the limit. */
  #hold(pending: PendingConnection): void {
    const { migrationId } = pending.hello;
    const older = this.#held.findIndex(({ hello }) => hello.migrationId === migrationId);
    if (older !== -1) {
      const [gone] = this.#held.splice(older, 1);
      this.#refuse((gone as PendingConnection).link, superseded(pending.hello));
    }
    if (this.#held.length >= MAXIMUM_PENDING) {
      const message = `${MAXIMUM_PENDING} migrations wait here already; try again later`;
      this.#refuse(pending.link, new GodwitError('GODWIT_LIMIT_EXCEEDED', message));
      return;
    }
    this.#held.push(pending);
  }

  /** The migration is over here; its source has missed how. */
  async #answerFor({ link, hello, frames }: PendingConnection, { state, reason }: Outcome): Promise<void> {
    const { migrationId, stage } = hello;
    if (state === 'abandoned' || state === 'stranded') {
      this.#refuse(link, endedHere(state, reason));
      this.#tell(migrationId, state, reason);
      return;
    }
    if (stage !== 'handedOver') {
      this.#refuse(link, wrongStage(hello, state));
      return;
    }
    const { clock, handshakeTimeoutMs } = this.#parts as ReceiverParts;
    try {
      await link.control.write({
        type: 'resumed',
        state: 'running',
        round: 0,
        deviceSequences: [],
        deviceResets: [],
        incarnation: '0'.repeat(32),
        resumeMs: 0,
        sinceReadyMs: 0,
      });
      await inTime(frames.next(), clock, handshakeTimeoutMs, () => new GodwitError('GODWIT_TIMEOUT', 'no "released"'));
      this.#tell(migrationId, state, reason);
    } catch {
      // It may ask again.
    }
    await closeWithMessage([link.control], clock, undefined);
  }

  #tell(migrationId: string, state: DestinationOwnershipState, reason: GodwitError | undefined): void {
    this.#outcomes.set(migrationId, { state, reason, told: true });
    this.#rest();
  }

  #refuse(link: IncomingLink, error: GodwitError): void {
    refuseLink(link, error, (this.#parts as ReceiverParts).clock);
  }
}

/** Tells the source why its link is not taken, and lets go of it. */
export function refuseLink({ control }: IncomingLink, error: GodwitError, clock: Clock): void {
  void closeWithMessage([control], clock, error.remote ? undefined : error);
}

export function superseded(by: HelloFrame): GodwitError {
  return new GodwitError('GODWIT_LINK_LOST', `connection ${by.connection} of the source takes the place of this one`);
}

/** A hello whose stage makes no sense for what this side knows of the migration. */
export function wrongStage({ stage, migrationId }: HelloFrame, state: DestinationOwnershipState): GodwitError {
  return new GodwitError(
    'GODWIT_PROTOCOL',
    `a source that is "${stage}" says hello, but migration ${migrationId} is "${state}" here`,
  );
}

/** A code that the source takes for a passing reason. */
function beingTaken({ migrationId }: HelloFrame): GodwitError {
  return new GodwitError('GODWIT_LIMIT_EXCEEDED', `another link of migration ${migrationId} is just being taken`);
}

function unknownMigration({ migrationId, stage }: HelloFrame): GodwitError {
  return new GodwitError(
    'GODWIT_UNKNOWN_MIGRATION',
    `the source is "${stage}", but no migration ${migrationId} is known here: it was never received by this process, or long ago`,
  );
}

/** A reason that a source may take for a passing one gets a code that it does not. */
function endedHere(state: DestinationOwnershipState, reason: GodwitError | undefined): GodwitError {
  const passing = ['GODWIT_LINK_LOST', 'GODWIT_TIMEOUT', 'GODWIT_LIMIT_EXCEEDED', 'GODWIT_CONNECT_FAILED'];
  const code = reason === undefined || passing.includes(reason.code) ? 'GODWIT_UNKNOWN_MIGRATION' : reason.code;
  const why = reason === undefined ? '' : `: ${reason.message}`;
  return new GodwitError(code, `the migration is "${state}" here${why}`);
}

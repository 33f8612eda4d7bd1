import { GodwitError } from '../errors.js';
import { CLOSING_MS } from '../link/closing-message.js';
import type { MigrationEvent } from '../migration-event.js';
import type { HelloStage, ReceivedPagesFrame, ResumedFrame, WelcomeFrame } from '../protocol/frame.js';
import { isPassing, keepTrying } from './reconnect.js';
import { SourceConnection, type SourceConnectionParts } from './source-connection.js';

export interface SourceLinksParts extends SourceConnectionParts {
  /** Ends the migration's connections while the guest is not handed over. */
  readonly signal: AbortSignal;
  readonly emit: (event: MigrationEvent) => void;
}

/** A connection on which the destination has answered our hello. */
export interface Greeted<Answer = WelcomeFrame | ResumedFrame> {
  readonly connection: SourceConnection;
  readonly answer: Answer;
}

const nothing = (frame: ReceivedPagesFrame): void => {
  throw new GodwitError('GODWIT_PROTOCOL', `the destination sent "${frame.type}", though no round is unfinished`);
};

/** The connections of a migration at its source: one at a time, numbered, each in the place of the one before. */
export class SourceLinks {
  readonly #parts: SourceLinksParts;
  #number = 0;
  #current: SourceConnection | undefined;
  /** Bytes carried by connections that are over. */
  #pastBytes = 0;

  constructor(parts: SourceLinksParts) {
    this.#parts = parts;
  }

  get current(): SourceConnection | undefined {
    return this.#current;
  }

  /** Bytes that all streams of all connections have carried. */
  get wireBytes(): number {
    return this.#pastBytes + (this.#current?.wireBytes ?? 0);
  }

  /** The first connection. It is not made again: whoever cannot be reached at first may not be there at all. */
  async first(): Promise<Greeted<WelcomeFrame>> {
    const { options, emit } = this.#parts;
    const connection = await this.#connect(options.pageChannels, lasting(this.#parts.signal));
    const { link } = connection;
    if (link.pageChannels.length !== options.pageChannels) {
      emit({
        type: 'warning',
        code: 'GODWIT_UNSUPPORTED',
        message: `${options.pageChannels} page channels were asked for, but the link to ${link.peer} has ${link.pageChannels.length}`,
      });
    }
    const answer = await connection.greet('running', nothing);
    if (answer.type === 'welcome') return { connection, answer };
    throw new GodwitError(
      'GODWIT_PROTOCOL',
      `the destination knows migration ${options.migrationId} already (it is "${answer.state}" there); a migrationId names one migration only`,
    );
  }

  /** One more connection for the rounds of pre-copy; `signal` ends the attempt. */
  resume(signal: AbortSignal, onReceived: (frame: ReceivedPagesFrame) => void): Promise<Greeted> {
    return this.#again('running', this.#parts.options.pageChannels, lasting(this.#parts.signal), signal, onReceived);
  }

  /** One more connection to ask or to tell whose the guest is: without page channels, and over when `signal` aborts. */
  ask(stage: 'handedOver' | 'kept', signal: AbortSignal): Promise<Greeted> {
    return this.#again(stage, 0, lasting(signal), signal, nothing);
  }

  /** When it fails, nothing of it is left. */
  async #again(
    stage: HelloStage,
    pageChannels: number,
    over: AbortController,
    attempt: AbortSignal,
    onReceived: (frame: ReceivedPagesFrame) => void,
  ): Promise<Greeted> {
    await this.drop(new GodwitError('GODWIT_LINK_LOST', 'another connection takes its place'));
    const giveUp = () => over.abort(attempt.reason);
    if (attempt.aborted) giveUp();
    attempt.addEventListener('abort', giveUp, { once: true });
    try {
      const connection = await this.#connect(pageChannels, over);
      try {
        return { connection, answer: await connection.greet(stage, onReceived) };
      } catch (error) {
        const reason = await connection.reasonFor(GodwitError.wrap(error, 'GODWIT_INTERNAL', 'the handshake failed'));
        // What is final, the destination is told.
        if (!isPassing(reason)) await connection.closeWithMessage(reason);
        await this.drop(reason);
        throw reason;
      }
    } finally {
      attempt.removeEventListener('abort', giveUp);
    }
  }

  /** Lets go of the connection that was lost. Resolves when nothing of it borrows guest memory any more. */
  async drop(reason: GodwitError): Promise<void> {
    const connection = this.#current;
    this.#current = undefined;
    if (connection === undefined) return;
    await connection.drop(reason);
    this.#pastBytes += connection.wireBytes;
  }

  /** Ends the connection in peace, with `error` as the last words, if there are any; false when nobody can have heard it. */
  async closeWithMessage(error: GodwitError | undefined): Promise<boolean> {
    return (await this.#current?.closeWithMessage(error)) ?? false;
  }

  /**
   * The guest stays here, and the destination, which may be waiting for `go`, does not know: tells it over a new
   * connection, for as long as that is worth it. Never rejects.
   */
  async tellKept(error: GodwitError, withinMs: number): Promise<void> {
    const { clock, random } = this.#parts.options;
    try {
      await this.drop(error);
      await keepTrying(
        async (signal) => {
          const { connection, answer } = await this.ask('kept', signal);
          if (answer.type !== 'resumed' || answer.state === 'running') {
            throw new GodwitError(
              'GODWIT_PROTOCOL',
              `the guest was never given away, but the destination says "${answer.type === 'resumed' ? answer.state : answer.type}"`,
            );
          }
          if (await connection.closeWithMessage(error)) return;
          throw new GodwitError('GODWIT_LINK_LOST', 'the link was lost before the destination can have read why');
        },
        { clock, random, withinMs: Math.max(withinMs, CLOSING_MS), signal: new AbortController().signal },
      );
    } catch {
      // It has heard of it some other way, or never will: whoever cancels the incoming migration there decides.
      await this.drop(error);
    }
  }

  async #connect(pageChannels: number, over: AbortController): Promise<SourceConnection> {
    // A subscriber may have cancelled when it heard of "setup": no event comes from the signal any more.
    over.signal.throwIfAborted();
    const { migrationId, checksum } = this.#parts.options;
    const request = { migrationId, pageChannels, connection: ++this.#number, ...(checksum && { checksums: true }) };
    const connection = await SourceConnection.connect(request, this.#parts, over);
    this.#current = connection;
    return connection;
  }
}

/** What ends a connection: `signal`, as long as it lasts. */
function lasting(signal: AbortSignal): AbortController {
  const over = new AbortController();
  const onStop = () => over.abort(signal.reason);
  if (signal.aborted) onStop();
  else {
    signal.addEventListener('abort', onStop, { once: true });
    over.signal.addEventListener('abort', () => signal.removeEventListener('abort', onStop), { once: true });
  }
  return over;
}

import type { MigratableVm } from '../device/migratable-vm.js';
import type { SentEncodings } from '../encoding/sent-encodings.js';
import { GodwitError } from '../errors.js';
import type { MigrationEvent } from '../migration-event.js';
import type { HelloStage, ReceivedPagesFrame, ResumedFrame, WelcomeFrame } from '../protocol/frame.js';
import { FEATURES, helloOf } from '../protocol/negotiate.js';
import type { SourcePhaseName } from '../protocol/protocol-table.js';
import { CLOSING_MS } from '../session/closing-message.js';
import { isLost } from '../session/connection.js';
import { FirstCause } from '../session/first-cause.js';
import { keepTrying, mayRetry, type RetryStage } from '../session/retry.js';
import type { ResolvedOptions } from './options.js';
import { type FrameListeners, SourceConnection, type SourceConnectionParts } from './source-connection.js';

export interface SourceSessionParts {
  readonly vm: MigratableVm;
  readonly connector: SourceConnectionParts['connector'];
  readonly options: ResolvedOptions;
  readonly encodings: SentEncodings;
  readonly emit: (event: MigrationEvent) => void;
}

/** What is at stake with a hello of each stage; the first one is `connecting`. */
const RETRY_STAGES: Readonly<Record<HelloStage, RetryStage>> = {
  running: 'greeting',
  paused: 'greeting',
  handedOver: 'after-go',
  kept: 'greeting',
  dryRun: 'connecting',
};

/** A connection on which the destination has answered our hello. */
export interface Greeted<Answer = WelcomeFrame | ResumedFrame> {
  readonly connection: SourceConnection;
  readonly answer: Answer;
}

/**
 * All connections of a migration at its source, over its whole life: one at a time, numbered, each in the place of the one before;
 * and why it ends, once.
 */
export class SourceSession {
  /** Which frames may come now. */
  phase: SourcePhaseName = 'greeting';
  /** The stop-and-copy that the source is in, or makes next. */
  attempt = 1;
  /** What each device's `save` is expected to yield, in bytes: for the hello. */
  stateBytes: readonly number[] = [];
  listeners: FrameListeners = {};
  readonly end = new FirstCause();
  readonly #parts: SourceSessionParts;
  #number = 0;
  #current: SourceConnection | undefined;
  /** Bytes carried by connections that are over. */
  #pastBytes = 0;
  /** The destination has said `welcome`: it knows of the migration. */
  welcomed = false;

  constructor(parts: SourceSessionParts) {
    this.#parts = parts;
  }

  /** Aborts when the migration ends before the transfer, with the first cause. */
  get signal(): AbortSignal {
    return this.end.signal;
  }

  get current(): SourceConnection | undefined {
    return this.#current;
  }

  /** Bytes that all streams of all connections have carried. */
  get wireBytes(): number {
    return this.#pastBytes + (this.#current?.bytesWritten ?? 0);
  }

  /** What the hello offers. */
  get features(): readonly string[] {
    const { options, encodings } = this.#parts;
    return [
      FEATURES.back,
      ...(options.verify ? [FEATURES.verify] : []),
      ...(options.checksum ? [FEATURES.checksum] : []),
      ...encodings.features,
    ];
  }

  /** The first connection: tried again within `connectTimeoutMs`, with an event for each refusal. */
  async first(stage: 'running' | 'dryRun'): Promise<Greeted<WelcomeFrame>> {
    const { options, emit } = this.#parts;
    const { clock, random, connectTimeoutMs, migrationId } = options;
    const { connection, answer } = await keepTrying((window) => this.#connect(stage, options.pageChannels, window), {
      clock,
      random,
      // The handshake has a time of its own, behind the connecting.
      withinMs: connectTimeoutMs + options.handshakeTimeoutMs,
      signal: this.signal,
      stage: 'connecting',
      firstPauseMs: 0,
      giveUpAfterMs: connectTimeoutMs,
      onFailure: (reason, attempt) => emit({ type: 'connect-failed', reason, attempt }),
    });
    const { pageChannels, peer } = connection;
    if (pageChannels.length !== options.pageChannels) {
      emit({
        type: 'warning',
        code: 'GODWIT_UNSUPPORTED',
        message: `${options.pageChannels} page channels were asked for, but the link to ${peer} has ${pageChannels.length}`,
      });
    }
    if (answer.type === 'welcome') return { connection, answer };
    throw new GodwitError(
      'GODWIT_PROTOCOL',
      `the destination knows migration ${migrationId} already (it is "${answer.state}" there); a migrationId names one migration only`,
    );
  }

  /** One more connection before the transfer, while the guest runs or is paused; `signal` ends the attempt. */
  again(
    stage: 'running' | 'paused',
    signal: AbortSignal,
    onReceived?: (frame: ReceivedPagesFrame) => void,
  ): Promise<Greeted> {
    return this.#connect(stage, this.#parts.options.pageChannels, signal, this.signal, onReceived);
  }

  /** One more connection to ask or to tell whose the guest is: without page channels, and over when `signal` aborts. */
  ask(stage: 'handedOver' | 'kept', signal: AbortSignal): Promise<Greeted> {
    // What the destination has of an unfinished round is of no concern any more.
    return this.#connect(stage, 0, signal, signal, () => {});
  }

  /** Lets go of the connection that was lost. Resolves when nothing of it borrows guest memory any more. */
  async drop(reason: GodwitError): Promise<void> {
    const connection = this.#current;
    this.#current = undefined;
    if (connection === undefined) return;
    await connection.drop(reason);
    this.#pastBytes += connection.bytesWritten;
  }

  /**
   * Ends the connection in peace, with `error` as the closing message, if there is one; false when nobody can have heard it. `retry`:
   * the migration is not over, and may go on over another connection.
   */
  async close(error: GodwitError | undefined, retry = false): Promise<boolean> {
    return (await this.#current?.close(error, retry)) ?? false;
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
              'GODWIT_INTERNAL',
              `the guest was never given away, but the destination says "${answer.type === 'resumed' ? answer.state : answer.type}"`,
            );
          }
          if (await connection.close(error)) return;
          throw new GodwitError('GODWIT_LINK_LOST', 'the link was lost before the destination can have read why');
        },
        {
          clock,
          random,
          withinMs: Math.max(withinMs, CLOSING_MS),
          firstPauseMs: 0,
          signal: new AbortController().signal,
          stage: 'greeting',
        },
      );
    } catch {
      // It has heard of it some other way, or never will: whoever cancels the incoming migration there decides.
      await this.drop(error);
    }
  }

  /** When it fails, nothing of it is left. `over` ends the connection once it is made; default: the end of the migration. */
  async #connect(
    stage: HelloStage,
    pageChannels: number,
    attempt: AbortSignal,
    over: AbortSignal = this.signal,
    onReceived?: (frame: ReceivedPagesFrame) => void,
  ): Promise<Greeted> {
    const { vm, connector, options, encodings } = this.#parts;
    const { migrationId, checksum, description } = options;
    await this.drop(new GodwitError('GODWIT_LINK_LOST', 'another connection takes its place'));
    attempt.throwIfAborted();
    over.throwIfAborted();
    this.phase = 'greeting';
    const made = new AbortController();
    const giveUp = () => made.abort(attempt.reason);
    const stop = () => made.abort(over.reason);
    attempt.addEventListener('abort', giveUp, { once: true });
    over.addEventListener('abort', stop, { once: true });
    try {
      const request = { migrationId, pageChannels, connection: ++this.#number, ...(checksum && { checksums: true }) };
      const connection = await SourceConnection.connect(request, {
        connector,
        options,
        encodings,
        phase: () => this.phase,
        setPhase: (phase) => {
          this.phase = phase;
        },
        listeners: this.listeners,
        signal: made.signal,
      });
      this.#current = connection;
      try {
        const hello = helloOf(vm, {
          migrationId,
          features: this.features,
          pageChannels: connection.pageChannels.length,
          description,
          connection: request.connection,
          stage,
          attempt: this.attempt,
          stateBytes: this.stateBytes,
        });
        const answer = await connection.greet(hello, onReceived);
        if (answer.type === 'welcome') this.welcomed = true;
        // It lasts as long as `over` does, and no longer as the attempt.
        connection.signal.addEventListener('abort', () => over.removeEventListener('abort', stop), { once: true });
        return { connection, answer };
      } catch (error) {
        const reason = await connection.cause(error);
        // What is final is told. So is why a first connection is given up, since its peer knows nothing yet; for a later one, which is
        // made again, no time is lost with words.
        const retry = mayRetry(reason, this.welcomed ? RETRY_STAGES[stage] : 'connecting');
        if (!reason.remote && !isLost(reason) && (!retry || !this.welcomed)) await connection.close(reason, retry);
        await this.drop(reason);
        throw reason;
      }
    } catch (error) {
      over.removeEventListener('abort', stop);
      throw error;
    } finally {
      attempt.removeEventListener('abort', giveUp);
    }
  }
}

import { abortable } from '../abortable.js';
import type { MigratableVm } from '../device/migratable-vm.js';
import type { SentEncodings } from '../encoding/sent-encodings.js';
import { GodwitError } from '../errors.js';
import type { PageStream } from '../link/page-stream.js';
import { hasSharedBlocks } from '../memory/guest-memory.js';
import type { MigrationEvent } from '../migration-event.js';
import type { HelloStage, ResumedFrame, WelcomeFrame } from '../protocol/frame.js';
import { FEATURES, helloOf } from '../protocol/negotiate.js';
import type { SourcePhaseName } from '../protocol/protocol-table.js';
import { CLOSING_MS } from '../session/closing-message.js';
import { isLost } from '../session/connection.js';
import { FirstCause } from '../session/first-cause.js';
import { keepTrying, mayRetry, type RetryStage } from '../session/retry.js';
import type { ResolvedOptions } from './options.js';
import {
  type FrameListeners,
  type NamedBefore,
  SourceConnection,
  type SourceConnectionParts,
  type SourcePostcopy,
} from './source-connection.js';

export interface SourceSessionParts {
  readonly vm: MigratableVm;
  readonly connector: SourceConnectionParts['connector'];
  readonly options: ResolvedOptions;
  readonly encodings: SentEncodings;
  readonly postcopy: SourcePostcopy | undefined;
  readonly emit: (event: MigrationEvent) => void;
}

/** The retry stage of a hello of each stage; that of the first hello is `connecting`. */
const RETRY_STAGES: Readonly<Record<HelloStage, RetryStage>> = {
  running: 'greeting',
  paused: 'greeting',
  handedOver: 'after-go',
  kept: 'greeting',
  dryRun: 'connecting',
};

/** A connection, and the destination's answer to the hello on it. */
export interface Greeted<Answer = WelcomeFrame | ResumedFrame> {
  readonly connection: SourceConnection;
  readonly answer: Answer;
}

/**
 * All connections of a migration at its source, over its whole life: one at a time, numbered from 1. The session also keeps the first
 * cause of the end.
 */
export class SourceSession {
  /** The source's phase, which decides the legal frames. */
  phase: SourcePhaseName = 'greeting';
  /** Number of the stop-and-copy that the source is in or makes next, from 1. */
  attempt = 1;
  /** Per device: the bytes that its `save` is expected to yield, for the hello. */
  stateBytes: readonly number[] = [];
  listeners: FrameListeners = {};
  readonly end = new FirstCause();
  readonly #parts: SourceSessionParts;
  #number = 0;
  #current: SourceConnection | undefined;
  /** Bytes written on connections that are over. */
  #pastBytes = 0;
  /** The part of these bytes that were answers to requests for pages. */
  #pastAnswers = 0;
  /** Connections that are being dropped: their counts are not final. */
  readonly #ending = new Set<SourceConnection>();
  /** The time at which `link-lost` was emitted for a connection, in milliseconds of the clock. */
  readonly #lostAt = new WeakMap<SourceConnection, number>();
  /** True once the destination has answered `welcome`: it knows the migration. */
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

  /** Bytes written on all streams of all connections. */
  get wireBytes(): number {
    let bytes = this.#pastBytes + (this.#current?.bytesWritten ?? 0);
    for (const { bytesWritten } of this.#ending) bytes += bytesWritten;
    return bytes;
  }

  /** `wireBytes` and the payload that is being written. */
  get carriedBytes(): number {
    const current = this.#current;
    return this.wireBytes + (current === undefined ? 0 : current.carriedBytes - current.bytesWritten);
  }

  /** The bytes that a bandwidth limit counts: `carriedBytes` without the answers to requests for pages, for which a vCPU waits. */
  get limitedBytes(): number {
    let answers = this.#pastAnswers + answered(this.#current);
    for (const connection of this.#ending) answers += answered(connection);
    return this.carriedBytes - answers;
  }

  /** The features that the hello offers. */
  get features(): readonly string[] {
    const { options, encodings, vm } = this.#parts;
    return [
      FEATURES.back,
      FEATURES.probe,
      FEATURES.bitmap,
      ...(hasSharedBlocks(vm.memory) ? [FEATURES.shared] : []),
      FEATURES.loadEarly,
      ...(options.pageChannels > 0 ? [FEATURES.deviceChannels] : []),
      ...(options.verify ? [FEATURES.verify] : []),
      ...(options.postcopy ? [FEATURES.postcopy] : []),
      ...(options.checksum ? [FEATURES.checksum] : []),
      ...encodings.features,
    ];
  }

  /** Makes the first connection: tries again for `connectTimeoutMs`, and emits `connect-failed` for each failed attempt. */
  async first(stage: 'running' | 'dryRun'): Promise<Greeted<WelcomeFrame>> {
    const { options, emit } = this.#parts;
    const { clock, random, connectTimeoutMs, migrationId } = options;
    const { connection, answer } = await keepTrying((window) => this.#connect(stage, this.#streams, window), {
      clock,
      random,
      // The handshake has its own time limit, after that of connecting.
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

  /** Reconnects before the transfer, while the guest runs or is paused; `signal` ends the attempt. */
  again(stage: 'running' | 'paused', signal: AbortSignal, onNamed?: (frame: NamedBefore) => void): Promise<Greeted> {
    return this.#connect(stage, this.#streams, signal, this.signal, onNamed);
  }

  /**
   * Connects to settle which side runs the guest; with page channels only where pages are still to be sent (`onNamed` gets those that are
   * missing). The connection ends when `signal` aborts.
   */
  ask(stage: 'handedOver' | 'kept', signal: AbortSignal, onNamed?: (frame: NamedBefore) => void): Promise<Greeted> {
    // The pages of an unfinished round that the destination has do not matter any more.
    return this.#connect(stage, onNamed === undefined ? 0 : this.#streams, signal, signal, onNamed ?? (() => {}));
  }

  /** Emits `link-lost` for a connection, once; returns the time at which that was, in milliseconds of the clock. */
  reportLost(connection: SourceConnection, reason: GodwitError): number {
    const { options, emit } = this.#parts;
    const before = this.#lostAt.get(connection);
    if (before !== undefined) return before;
    const now = options.clock.now();
    this.#lostAt.set(connection, now);
    emit({ type: 'link-lost', reason });
    return now;
  }

  /**
   * Drops a connection that took the place of a lost one and cannot be used: no further loss is reported. Resolves when nothing of it borrows
   * guest memory.
   */
  async dropUnused(connection: SourceConnection, lostAt: number, reason: GodwitError): Promise<void> {
    this.#lostAt.set(connection, lostAt);
    await connection.drop(reason);
  }

  /** Streams beside the control stream. */
  get #streams(): number {
    const { pageChannels, postcopy } = this.#parts.options;
    return pageChannels + (postcopy ? 1 : 0);
  }

  /** Drops the present connection. Resolves when nothing of it borrows guest memory. */
  async drop(reason: GodwitError): Promise<void> {
    const connection = this.#current;
    this.#current = undefined;
    if (connection === undefined) return;
    this.#ending.add(connection);
    try {
      await connection.drop(reason);
    } finally {
      this.#ending.delete(connection);
      this.#pastBytes += connection.bytesWritten;
      this.#pastAnswers += answered(connection);
    }
  }

  /**
   * Closes the present connection, with `error` as the closing message, if any. `retry`: the migration is not over and may go on over
   * another connection. Resolves with whether the destination has read the message.
   */
  async close(error: GodwitError | undefined, retry = false, acceptedMs?: number): Promise<boolean> {
    return (await this.#current?.close(error, retry, acceptedMs)) ?? false;
  }

  /**
   * Tells the destination, which may be waiting for `go`, over a new connection that the guest stays at the source. Tries for at most
   * `withinMs`. Never rejects.
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
          signal: new AbortController().signal,
          stage: 'greeting',
        },
      );
    } catch {
      // When the destination could not be told, the incoming migration has to be cancelled there.
      await this.drop(error);
    }
  }

  /**
   * Connects and sends the hello. A connection that fails before its answer is closed. An abort of `attempt` ends the attempt to connect,
   * an abort of `over` (default: the end of the migration) also the connection.
   */
  async #connect(
    stage: HelloStage,
    pageChannels: number,
    attempt: AbortSignal,
    over: AbortSignal = this.signal,
    onNamed?: (frame: NamedBefore) => void,
  ): Promise<Greeted> {
    const { vm, connector, options, encodings } = this.#parts;
    const { migrationId, checksum, description } = options;
    await this.drop(new GodwitError('GODWIT_LINK_LOST', 'another connection replaces this one'));
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
        postcopy: this.#parts.postcopy,
        signal: made.signal,
      });
      this.#current = connection;
      try {
        const hello = helloOf(vm, {
          migrationId,
          features: this.features,
          pageChannels: connection.streams.length - 1,
          description,
          connection: request.connection,
          stage,
          attempt: this.attempt,
          stateBytes: this.stateBytes,
        });
        const answer = await connection.greet(hello, onNamed);
        if (answer.type === 'welcome') this.welcomed = true;
        await abortable(Promise.all(connection.streams.map((stream: PageStream) => stream.ready)), connection.signal);
        // From here on only `over` ends the connection.
        connection.signal.addEventListener('abort', () => over.removeEventListener('abort', stop), { once: true });
        return { connection, answer };
      } catch (error) {
        const reason = await connection.cause(error);
        // The peer is told a final error, and any error of a first connection, since it does not know the migration yet. A later
        // connection that will be made again is dropped at once, to lose no time.
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

function answered(connection: SourceConnection | undefined): number {
  return connection?.urgent?.bytesWritten ?? 0;
}

import { addNamedPages } from '../destination/run-check.js';
import type { SentEncodings } from '../encoding/sent-encodings.js';
import { GodwitError } from '../errors.js';
import { inTime } from '../in-time.js';
import { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { MemoryWindows } from '../memory/memory-windows.js';
import type { MigrationEvent, MigrationState } from '../migration-event.js';
import type { ResumedFrame, WelcomeFrame } from '../protocol/frame.js';
import { checkDeviceState, checkWelcome, FEATURES } from '../protocol/negotiate.js';
import type { PageQueue } from '../queue/page-queue.js';
import { isLost } from '../session/connection.js';
import { keepTrying, mayRetry } from '../session/retry.js';
import type { DeviceSender } from './device-sender.js';
import type { ResolvedOptions } from './options.js';
import { probeLink } from './probe-link.js';
import { addRounds, hidesLink, type SentRound } from './sent-rounds.js';
import { type SenderParts, type SourceConnection, unanswered } from './source-connection.js';
import type { Greeted, SourceSession } from './source-session.js';

/**
 * Round trips that are measured one after the other, before round 1 and after it, as long as those so far took less than `PINGS_MS`
 * together. After a later round one is measured. Milliseconds.
 */
const PINGS = 4;
const PINGS_MS = 25;

/** The time between two measurements of the link while rounds hide it. Milliseconds. */
const PROBE_EVERY_MS = 5000;

/** Thrown when the destination was restarted and has lost everything: pre-copy begins again with round 1. */
export class DestinationRestarted extends Error {
  override readonly name = 'DestinationRestarted';
}

export interface RoundTransferParts {
  readonly session: SourceSession;
  readonly windows: MemoryWindows;
  readonly devices: DeviceSender;
  readonly deviceIds: readonly string[];
  readonly options: ResolvedOptions;
  readonly encodings: SentEncodings;
  readonly sender: Omit<SenderParts, 'maximumPayload'>;
  readonly emit: (event: MigrationEvent) => void;
  readonly setState: (state: MigrationState) => void;
  /** Called with the pages of the round that are still to be sent over a new connection. */
  readonly onOwed: (pages: number) => void;
  /** Learns from device state that was sent beside the pages (`DowntimeModel.stateSent`). */
  readonly onStateSent: (bytes: number, busyMs: number, wallMs: number) => void;
  /** Whether the link's rate has to be measured: a prediction depends on it, and no round has shown it. */
  readonly isLinkUnknown: () => boolean;
  /** Learns from a probe of the link (`DowntimeModel.probed`). */
  readonly onProbed: (bytes: number, ms: number) => void;
  /** Called with the connection when its page channels were made, and with `undefined` when they are over. */
  readonly onChannels: (connection: SourceConnection | undefined) => void;
}

/**
 * Sends rounds over as many connections as it takes, and numbers them as the destination does.
 *
 * After a lost link the class reconnects, and sends the pages that the destination has not acknowledged over the next connection: the
 * destination names its round and the pages of it that it has received. Nothing else clears dirty bits of an unfinished round. The
 * destination answers only after it has stopped everything that read the old connection.
 */
export class RoundTransfer {
  readonly #parts: RoundTransferParts;
  /** Number of the last round that was begun, from 1; the numbers begin at 1 again for a restarted destination. */
  #round = 0;
  /** True while the destination has not acknowledged that round. */
  #unfinished = false;
  /** Pages of that round that the destination had after the last lost link. */
  #receivedPages = 0;
  #welcome: WelcomeFrame | undefined;
  /** The last connection that was used; an attempt to make another one may have failed since. */
  #last: SourceConnection | undefined;
  /** The connection on which the link was measured last, and the time of that. */
  #probed: { readonly connection: SourceConnection; readonly at: number } | undefined;
  /** The time at which the link was first lost after the last acknowledgement. */
  #lostSince: number | undefined;

  constructor(parts: RoundTransferParts) {
    this.#parts = parts;
  }

  /** The destination's `welcome`, which has everything that the destination agreed to. */
  get welcome(): WelcomeFrame {
    if (this.#welcome === undefined) throw new GodwitError('GODWIT_INTERNAL', 'there was no welcome');
    return this.#welcome;
  }

  /** Whether `welcome` has come and fits this migration; the streams of its connection are ready then. */
  get hasStarted(): boolean {
    return this.#welcome !== undefined;
  }

  /** The last round that was begun. */
  get round(): number {
    return this.#round;
  }

  /** Begins with round 1 on the connection on which `welcome` came. Throws when the welcome does not fit this migration. */
  start(connection: SourceConnection, welcome: WelcomeFrame): void {
    const { options, windows, devices, onChannels, encodings, emit, session, sender, deviceIds } = this.#parts;
    const dispensable = [
      ...(options.missingEncoding === 'warn' ? encodings.features : []),
      FEATURES.back,
      FEATURES.probe,
      FEATURES.bitmap,
      FEATURES.deviceChannels,
      FEATURES.loadEarly,
    ];
    checkWelcome(welcome, session.features, windows.pageSize, dispensable);
    if (!welcome.features.includes(FEATURES.loadEarly))
      checkDeviceState(deviceIds, session.stateBytes, welcome.maximumDeviceState);
    for (const name of encodings.welcomed(welcome.features, windows.memory)) {
      const message = `the encoding "${name}" is not used: the destination (${welcome.software}) does not have it`;
      emit({ type: 'warning', code: 'GODWIT_UNSUPPORTED', message });
    }
    this.#welcome = welcome;
    this.#round = 0;
    this.#unfinished = false;
    this.#last = connection;
    connection.begin(windows, { ...sender, maximumPayload: welcome.maximumPayload }, welcome.features);
    devices.use(connection, welcome.maximumPayload, welcome.maximumDeviceState);
    onChannels(connection);
  }

  /**
   * Sends the owed pages with the guest running, and then, if `offer`, the state that devices yield; resolves when the destination has
   * acknowledged both. When `cut` aborts, the round ends early: pages that were not sent yet stay in the queue.
   */
  async send(offer: boolean, cut: AbortSignal, onRoundTrip: (ms: number) => void): Promise<SentRound> {
    const { devices } = this.#parts;
    this.#begin();
    let sum: SentRound | undefined;
    let offered = !offer;
    for (;;) {
      const connection = await this.connected();
      try {
        if (this.#unfinished) {
          const sent = await this.#sendOrCut(connection, cut);
          this.#acknowledged();
          sum = addRounds(sum, sent);
        }
        if (!offered && !cut.aborted) {
          // Devices are asked once a round: a device that was interrupted yields the rest in the next round.
          offered = true;
          const limitMs = await this.#offer(cut);
          if (sum !== undefined) sum = { ...sum, limitMs: sum.limitMs + limitMs };
        }
        const arrived = devices.arrival();
        await this.#pings(connection, onRoundTrip);
        await arrived();
        await this.#probe(connection, sum as SentRound, cut, onRoundTrip);
        this.#lostSince = undefined;
        return sum as SentRound;
      } catch (error) {
        if (this.#unfinished) sum = addRounds(sum, connection.sender.interrupted());
        await this.#reconnect(connection, error);
        this.#parts.onOwed(this.#unfinished ? this.#queue.count() : 0);
      }
    }
  }

  /**
   * Sends the owed pages with the guest paused, on this connection only, without the bandwidth limit. Rejects when `giveUp` aborts or the
   * link is lost; `settleAbandoned` must be called then.
   */
  async sendPaused(connection: SourceConnection, giveUp: AbortSignal): Promise<SentRound> {
    this.#begin();
    const sent = await connection.sender.send(this.#round, { limited: false }, giveUp);
    this.#acknowledged();
    return sent;
  }

  /**
   * Settles the unfinished round of a stop-and-copy that was given up, with the guest running again: ends it on the connection, or drops
   * the connection and makes another one, so that no page of the round arrives later. The queue then owes the pages that the destination
   * does not have. Resolves with the connection to go on with.
   */
  async settleAbandoned(): Promise<SourceConnection> {
    const { session, options } = this.#parts;
    const { clock, handshakeTimeoutMs } = options;
    const connection = session.current;
    if (this.#unfinished && connection !== undefined && !connection.signal.aborted) {
      try {
        const ending = connection.sender.abandon(this.#round);
        await inTime(ending, clock, handshakeTimeoutMs, () => unacknowledged(handshakeTimeoutMs));
        this.#acknowledged();
      } catch (error) {
        await connection.drop(await this.lost(connection, error));
      }
    }
    const next = await this.connected();
    if (this.#unfinished) {
      // The destination is still in this round, so the next one has its number.
      this.#round--;
      this.#unfinished = false;
    }
    return next;
  }

  /** Throws `GODWIT_PROTOCOL` for a destination that cannot be in this round. */
  checkRound(round: number): void {
    if (this.#isInRound(round) || this.#hasRound(round)) return;
    throw new GodwitError(
      'GODWIT_PROTOCOL',
      `the destination says that it is in round ${round}; here round ${this.#round} is ${this.#unfinished ? 'being sent' : 'acknowledged'}`,
    );
  }

  /** Goes on over a new connection with the round that the destination is in, which was checked, with the guest running there. */
  goOn(connection: SourceConnection, round: number): void {
    this.#round = round - 1;
    this.#unfinished = false;
    this.adopt(connection);
  }

  /** Sends the owed pages as the next round, with the guest running at the destination. Rejects when the link is lost. */
  async sendMissing(connection: SourceConnection): Promise<SentRound> {
    this.#begin();
    const sent = await connection.sender.send(this.#round, { limited: true, postcopy: true });
    this.#acknowledged();
    return sent;
  }

  /** Measures round trips before the first round (`#pings`); reconnects after a lost link. */
  async ping(onRoundTrip: (ms: number) => void): Promise<void> {
    const { clock, handshakeTimeoutMs } = this.#parts.options;
    for (;;) {
      try {
        const connection = await this.connected();
        try {
          const answered = this.#pings(connection, onRoundTrip);
          return await inTime(answered, clock, handshakeTimeoutMs, () => unanswered(handshakeTimeoutMs));
        } catch (error) {
          await this.#reconnect(connection, error);
        }
      } catch (error) {
        // No round was sent yet, so a restarted destination makes no difference.
        if (!(error instanceof DestinationRestarted)) throw error;
      }
    }
  }

  /** Resolves with the present connection; reconnects first if that one is lost. */
  async connected(): Promise<SourceConnection> {
    for (;;) {
      const { current } = this.#parts.session;
      if (current !== undefined && !current.signal.aborted) return current;
      const connection = current ?? this.#last;
      if (connection === undefined) throw new GodwitError('GODWIT_INTERNAL', 'there was no first connection');
      await this.#reconnect(connection, connection.signal.reason);
    }
  }

  /** Uses this connection from now on: the destination has answered on it and goes on with the round that it is in. */
  adopt(connection: SourceConnection): void {
    const { windows, sender, devices, onChannels } = this.#parts;
    const { maximumPayload, maximumDeviceState, features } = this.welcome;
    this.#last = connection;
    connection.begin(windows, { ...sender, maximumPayload }, features);
    devices.use(connection, maximumPayload, maximumDeviceState);
    onChannels(connection);
  }

  /**
   * Resolves with the cause of `error`, which came from using `connection`, if the cause is a lost link after which the source may
   * reconnect; throws the cause otherwise.
   */
  async lost(connection: SourceConnection, error: unknown): Promise<GodwitError> {
    const { session, options } = this.#parts;
    session.signal.throwIfAborted();
    const reason = await connection.cause(error);
    session.signal.throwIfAborted();
    if (!mayRetry(reason, 'connected') || options.reconnectTimeoutMs === 0) throw reason;
    return reason;
  }

  get #queue(): PageQueue {
    return this.#parts.sender.queue;
  }

  /** Sends the state that devices yield; resolves when it has arrived, with the milliseconds of waiting for the bandwidth limit. */
  async #offer(cut: AbortSignal): Promise<number> {
    const { devices, options, onStateSent, sender } = this.#parts;
    const { clock } = options;
    const [start, bytes, linkMs, limitMs] = [clock.now(), devices.writtenBytes, devices.linkMs, sender.limit.waitedMs];
    await devices.precopy(cut);
    const limitedMs = sender.limit.waitedMs - limitMs;
    const written = devices.writtenBytes - bytes;
    // Pieces that go on beside the rounds wait for room at the destination and not for the link, so nothing is learned from them.
    if (written === 0 || devices.flushing) return limitedMs;
    await devices.settle();
    onStateSent(written, devices.linkMs - linkMs, clock.now() - start - limitedMs);
    return limitedMs;
  }

  /**
   * Measures the link where a prediction needs that: once on each connection, if no round has loaded it and there is device state whose
   * time depends on it; and every 5 s while rounds hide it (`hidesLink`).
   */
  async #probe(
    connection: SourceConnection,
    sent: SentRound,
    cut: AbortSignal,
    onRoundTrip: (ms: number) => void,
  ): Promise<void> {
    const { options, sender, isLinkUnknown, onProbed } = this.#parts;
    const { clock } = options;
    if (cut.aborted || !this.welcome.features.includes(FEATURES.probe)) return;
    const before = this.#probed?.connection === connection ? this.#probed.at : undefined;
    const due = hidesLink(sent)
      ? before === undefined || clock.now() - before >= PROBE_EVERY_MS
      : before === undefined && isLinkUnknown();
    if (!due) return;
    this.#probed = { connection, at: clock.now() };
    const limits = { most: sender.limit.most, cut };
    const { lastBytes, lastMs, roundTripMs } = await probeLink(connection, this.welcome, clock, limits);
    onRoundTrip(roundTripMs);
    onProbed(lastBytes, lastMs);
  }

  /** Measures a round trip, or several short ones: a single one may have waited for a processor at either end. */
  async #pings(connection: SourceConnection, onRoundTrip: (ms: number) => void): Promise<void> {
    const { clock } = this.#parts.options;
    const start = clock.now();
    const most = this.#round > 1 ? 1 : PINGS;
    for (let i = 0; i < most && (i === 0 || clock.now() - start < PINGS_MS); i++) onRoundTrip(await connection.ping());
  }

  /** Sends the whole round; if it is ended early, resolves with the part that the destination has acknowledged. */
  async #sendOrCut({ sender }: SourceConnection, cut: AbortSignal): Promise<SentRound> {
    const round = this.#round;
    try {
      return await sender.send(round, { limited: true }, cut);
    } catch (error) {
      if (!cut.aborted || error !== cut.reason) throw error;
      await sender.abandon(round);
      return sender.interrupted();
    }
  }

  #acknowledged(): void {
    this.#queue.acknowledged();
    this.#unfinished = false;
    this.#lostSince = undefined;
  }

  #begin(): void {
    this.#queue.acknowledged();
    this.#receivedPages = 0;
    this.#unfinished = true;
    this.#round++;
  }

  /**
   * Reconnects after a lost link. Throws the cause if it was not a lost link, and `DestinationRestarted` if the destination was restarted.
   */
  async #reconnect(lost: SourceConnection, error: unknown): Promise<void> {
    const { session, options, emit, setState, devices, onChannels } = this.#parts;
    const { clock, random, reconnectTimeoutMs } = options;
    const { signal } = session;
    const reason = await this.lost(lost, error);
    const since = clock.now();
    // The time limit counts from the last progress: a new connection that is lost without any progress does not restart it.
    this.#lostSince ??= since;
    const withinMs = Math.max(0, reconnectTimeoutMs - (since - this.#lostSince));
    const lostAt = session.reportLost(lost, reason);
    setState('reconnecting');
    await session.drop(reason);
    onChannels(undefined);
    signal.throwIfAborted();
    let received = new DirtyBitmaps(this.#parts.windows.memory);
    const { connection, answer } = await keepTrying<Greeted>(
      (window) => {
        received = new DirtyBitmaps(this.#parts.windows.memory);
        return session.again('running', window, (frame) => {
          if (frame.type === 'missing')
            throw new GodwitError('GODWIT_PROTOCOL', 'the destination sent "missing" for a guest that runs here');
          addNamedPages(this.#parts.windows.memory, frame, received);
        });
      },
      { clock, random, withinMs, signal, stage: 'greeting' },
    ).catch((cause: unknown) => {
      signal.throwIfAborted();
      throw mayRetry(cause, 'greeting') ? gaveUp(reason, cause as GodwitError, reconnectTimeoutMs) : cause;
    });
    const restarted = answer.type === 'welcome';
    if (answer.type === 'welcome') this.start(connection, answer);
    else this.#resume(connection, answer, received);
    setState('active');
    emit({
      type: 'reconnected',
      connection: connection.request.connection,
      downMs: clock.now() - lostAt,
      restarted,
    });
    signal.throwIfAborted();
    if (!restarted) {
      const { deviceSequences, deviceResets } = answer as ResumedFrame;
      // A link that is lost during this call is dropped, even if its control stream has not failed yet: the next call reconnects.
      await devices.resume(deviceSequences, deviceResets).catch(async (cause: unknown) => {
        if (signal.aborted || !(connection.signal.aborted || isLost(cause))) throw cause;
        if (!connection.signal.aborted) await connection.drop(await connection.cause(cause));
      });
      return;
    }
    await devices.restart();
    throw new DestinationRestarted('the destination was restarted');
  }

  /**
   * Goes on after a lost link. In the middle of a round every page that was taken is owed again, except for the pages that the destination
   * names, each of which must have been taken; no other page is forgotten. If the destination has the whole round, pages that were not
   * taken because the round was ended early are still owed.
   */
  #resume(connection: SourceConnection, answer: ResumedFrame, received: DirtyBitmaps): void {
    const queue = this.#queue;
    const inRound = this.#isInRound(answer.round);
    if (answer.state !== 'receiving' || !(inRound || this.#hasRound(answer.round))) {
      throw new GodwitError(
        'GODWIT_PROTOCOL',
        `the destination says that it is "${answer.state}" in round ${answer.round}; here round ${this.#round} is ${this.#unfinished ? 'being sent' : 'acknowledged'}`,
      );
    }
    if (inRound) {
      if (!queue.restore(received)) throw notOfThisRound(answer.round);
      const pages = received.count();
      if (pages > this.#receivedPages) this.#lostSince = undefined;
      this.#receivedPages = pages;
    } else {
      if (!received.isEmpty()) throw notOfThisRound(answer.round);
      if (this.#unfinished) this.#acknowledged();
    }
    this.adopt(connection);
  }

  /** Whether a destination that is in this round has a part of the last one that was begun. */
  #isInRound(round: number): boolean {
    return this.#unfinished && round === this.#round;
  }

  /** Whether a destination that is in this round has the whole of the last one that was begun. */
  #hasRound(round: number): boolean {
    if (round !== this.#round + 1) return false;
    return !this.#unfinished || this.#last?.sender.hasEnded(this.#round) === true;
  }
}

function notOfThisRound(round: number): GodwitError {
  return new GodwitError(
    'GODWIT_PROTOCOL',
    `the destination says that it has received pages in round ${round} which were not sent in it`,
  );
}

/** The error with which the connection, and with it every page in flight, is dropped. */
function unacknowledged(handshakeTimeoutMs: number): GodwitError {
  return new GodwitError(
    'GODWIT_LINK_LOST',
    `the destination has not acknowledged the end of a round that was given up within handshakeTimeoutMs (${handshakeTimeoutMs} ms): the link counts as lost`,
  );
}

function gaveUp(lost: GodwitError, last: GodwitError, reconnectTimeoutMs: number): GodwitError {
  return new GodwitError(
    'GODWIT_LINK_LOST',
    `the link was lost (${lost.message}) and no new connection was made within reconnectTimeoutMs (${reconnectTimeoutMs} ms); the last attempt: ${last.message}`,
    { cause: lost },
  );
}

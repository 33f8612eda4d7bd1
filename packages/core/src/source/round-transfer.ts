import { checkRuns } from '../destination/run-check.js';
import type { SentEncodings } from '../encoding/sent-encodings.js';
import { GodwitError } from '../errors.js';
import { inTime } from '../in-time.js';
import { isLinkLost } from '../link/closing-message.js';
import { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { MemoryWindows } from '../memory/memory-windows.js';
import type { MigrationEvent, MigrationState } from '../migration-event.js';
import type { ReceivedPagesFrame, ResumedFrame, WelcomeFrame } from '../protocol/frame.js';
import { checkWelcome } from '../protocol/negotiate.js';
import type { DeviceSender } from './device-sender.js';
import type { Harvest } from './harvester.js';
import type { ResolvedOptions } from './options.js';
import { isPassing, keepTrying } from './reconnect.js';
import type { SentRound } from './round-sender.js';
import { featuresOf, type SenderParts, type SourceConnection, unanswered } from './source-connection.js';
import type { SourceLinks } from './source-links.js';

/** Thrown where a destination came back with nothing: pre-copy begins again, with round 1. */
export class DestinationRestarted extends Error {
  override readonly name = 'DestinationRestarted';
}

export interface RoundTransferParts {
  readonly links: SourceLinks;
  readonly windows: MemoryWindows;
  readonly devices: DeviceSender;
  readonly options: ResolvedOptions;
  readonly signal: AbortSignal;
  readonly encodings: SentEncodings;
  readonly sender: Omit<SenderParts, 'maximumPayload'>;
  readonly emit: (event: MigrationEvent) => void;
  readonly setState: (state: MigrationState) => void;
  /** Called when page channels were made, and when they are over. */
  readonly onChannels: (connection: SourceConnection | undefined) => void;
}

/**
 * Sends rounds while the guest runs, over as many connections as it takes.
 *
 * A lost link is made anew, and what the destination has not acknowledged goes over the next one: the two agree by the
 * number of the round and the pages of it that the destination names. Dirty bits are cleared by nothing else, and only
 * once the destination has ended everything that read the old connection.
 */
export class RoundTransfer {
  readonly #parts: RoundTransferParts;
  /** The last round that was begun. */
  #round = 0;
  /** Its pages that are not acknowledged; `undefined` once the whole round is. */
  #owed: DirtyBitmaps | undefined;
  /** All pages of the round, kept from its first lost link on: what the destination may name. */
  #all: DirtyBitmaps | undefined;
  #maximumPayload = 0;
  /** When the link was lost for the first time since something was acknowledged. */
  #lostSince: number | undefined;

  constructor(parts: RoundTransferParts) {
    this.#parts = parts;
  }

  get maximumPayload(): number {
    return this.#maximumPayload;
  }

  /** Takes the connection on which the destination has said `welcome`. */
  start(connection: SourceConnection, welcome: WelcomeFrame): void {
    const { options, windows, sender, devices, onChannels, encodings, emit } = this.#parts;
    const dispensable = options.missingEncoding === 'warn' ? encodings.features : [];
    checkWelcome(welcome, featuresOf(options, encodings), windows.pageSize, dispensable);
    for (const name of encodings.welcomed(welcome.features, windows.memory)) {
      const message = `the encoding "${name}" is not used: the destination (${welcome.software}) does not have it`;
      emit({ type: 'warning', code: 'GODWIT_UNSUPPORTED', message });
    }
    this.#maximumPayload = welcome.maximumPayload;
    this.#round = 0;
    this.#owed = undefined;
    connection.begin(windows, { ...sender, maximumPayload: welcome.maximumPayload });
    devices.use(connection, welcome.maximumPayload);
    onChannels(connection);
  }

  /**
   * Sends a round, and then what devices offer; resolves when the destination has acknowledged both. The bits of what it
   * has acknowledged on a connection that was lost are cleared.
   */
  async send(round: number, harvest: Harvest, onRoundTrip: (ms: number) => void): Promise<SentRound> {
    const { devices } = this.#parts;
    this.#round = round;
    this.#owed = harvest.bitmaps;
    this.#all = undefined;
    let owedPages = harvest.dirtyPages;
    let sum: SentRound | undefined;
    let offered = false;
    for (;;) {
      const connection = await this.connected();
      const sending = this.#owed;
      try {
        if (sending !== undefined) {
          const sent = await connection.sender.send(round, sending, owedPages, true);
          this.#owed = undefined;
          this.#lostSince = undefined;
          sum = added(sum, sent);
        }
        if (!offered) {
          // Once a round: what an interrupted device has not yielded comes with the next one.
          offered = true;
          await devices.precopy();
        }
        onRoundTrip(await connection.ping());
        devices.acknowledged();
        this.#lostSince = undefined;
        return sum as SentRound;
      } catch (error) {
        if (this.#owed !== undefined) sum = added(sum, connection.sender.interrupted());
        await this.#makeAnew(connection, error);
        owedPages = (this.#owed as DirtyBitmaps | undefined)?.count() ?? 0;
      }
    }
  }

  /** Measures the round trip once before the first round, over a new link if need be. */
  async ping(): Promise<number> {
    const { clock, handshakeTimeoutMs } = this.#parts.options;
    for (;;) {
      try {
        const connection = await this.connected();
        try {
          return await inTime(connection.ping(), clock, handshakeTimeoutMs, () => unanswered(handshakeTimeoutMs));
        } catch (error) {
          await this.#makeAnew(connection, error);
        }
      } catch (error) {
        // Nothing was sent that would have to be sent again.
        if (!(error instanceof DestinationRestarted)) throw error;
      }
    }
  }

  /** The connection, after it was made anew if it is known to be lost. */
  async connected(): Promise<SourceConnection> {
    for (;;) {
      const connection = this.#parts.links.current;
      if (connection === undefined) throw new GodwitError('GODWIT_INTERNAL', 'there was no first connection');
      if (!connection.signal.aborted) return connection;
      await this.#makeAnew(connection, connection.signal.reason);
    }
  }

  /** Makes a lost link anew. Throws what `error` really was, if it was no lost link. */
  async #makeAnew(lost: SourceConnection, error: unknown): Promise<void> {
    const { links, options, signal, emit, setState, devices, onChannels } = this.#parts;
    const { clock, random, reconnectTimeoutMs } = options;
    signal.throwIfAborted();
    // The control stream may have told why in the meantime.
    const first: unknown = lost.signal.aborted ? lost.signal.reason : error;
    const reason = await lost.reasonFor(GodwitError.wrap(first, 'GODWIT_INTERNAL', 'the connection failed'));
    signal.throwIfAborted();
    if (!isLinkLost(reason) || reconnectTimeoutMs === 0) throw reason;
    const since = clock.now();
    // A link that is made anew and lost again, with nothing done meanwhile, has not come back.
    this.#lostSince ??= since;
    const withinMs = Math.max(0, reconnectTimeoutMs - (since - this.#lostSince));
    emit({ type: 'link-lost', reason });
    setState('reconnecting');
    await links.drop(reason);
    onChannels(undefined);
    signal.throwIfAborted();
    let received = new DirtyBitmaps(this.#parts.windows.memory);
    const { connection, answer } = await keepTrying(
      (window) => {
        received = new DirtyBitmaps(this.#parts.windows.memory);
        return links.resume(window, (frame) => this.#collect(frame, received));
      },
      { clock, random, withinMs, signal },
    ).catch((cause: unknown) => {
      signal.throwIfAborted();
      throw isPassing(cause) ? gaveUp(reason, cause as GodwitError, reconnectTimeoutMs) : cause;
    });
    const restarted = answer.type === 'welcome';
    if (answer.type === 'welcome') this.start(connection, answer);
    else this.#resume(connection, answer, received);
    setState('active');
    emit({
      type: 'reconnected',
      connection: connection.request.connection,
      downMs: clock.now() - since,
      restarted,
    });
    signal.throwIfAborted();
    if (!restarted) {
      // A link that is lost here is lost for the next one to use it; its control stream may not have noticed yet.
      await devices.resume((answer as ResumedFrame).deviceSequences).catch(async (cause: unknown) => {
        if (signal.aborted || !(connection.signal.aborted || isLinkLost(cause))) throw cause;
        if (!connection.signal.aborted) await connection.drop(await connection.reasonFor(cause as GodwitError));
      });
      return;
    }
    await devices.restart();
    throw new DestinationRestarted('the destination was restarted');
  }

  #collect(frame: ReceivedPagesFrame, received: DirtyBitmaps): void {
    checkRuns(this.#parts.windows.memory, frame.block, frame.runs, frame.type);
    const bitmap = received.at(frame.block);
    for (let i = 0; i < frame.runs.length; i += 2) {
      bitmap.setRange(frame.runs[i] as number, frame.runs[i + 1] as number);
    }
  }

  /** Only here are bits of an unfinished round forgotten: those that the destination names, which must be of it. */
  #resume(connection: SourceConnection, answer: ResumedFrame, received: DirtyBitmaps): void {
    const { windows, sender, devices, onChannels } = this.#parts;
    const owed = this.#owed;
    const unfinished = owed !== undefined && answer.round === this.#round;
    if (answer.state !== 'receiving' || (!unfinished && answer.round !== this.#round + 1)) {
      throw new GodwitError(
        'GODWIT_PROTOCOL',
        `the destination says that it is "${answer.state}" in round ${answer.round}; here round ${this.#round} is ${owed === undefined ? 'acknowledged' : 'being sent'}`,
      );
    }
    const owedPages = owed?.count() ?? 0;
    if (unfinished) {
      this.#all ??= copyOf(owed);
      if (!this.#all.contains(received)) throw notOfThisRound(answer.round);
      owed.andNot(received);
    } else {
      if (!received.isEmpty()) throw notOfThisRound(answer.round);
      this.#owed = undefined;
    }
    if ((this.#owed?.count() ?? 0) < owedPages) this.#lostSince = undefined;
    connection.begin(windows, { ...sender, maximumPayload: this.#maximumPayload });
    devices.use(connection, this.#maximumPayload);
    onChannels(connection);
  }
}

function copyOf(bitmaps: DirtyBitmaps): DirtyBitmaps {
  const copy = new DirtyBitmaps(bitmaps);
  copy.or(bitmaps);
  return copy;
}

function notOfThisRound(round: number): GodwitError {
  return new GodwitError(
    'GODWIT_PROTOCOL',
    `the destination says that it has received pages in round ${round} which were not sent in it`,
  );
}

function gaveUp(lost: GodwitError, last: GodwitError, reconnectTimeoutMs: number): GodwitError {
  return new GodwitError(
    'GODWIT_LINK_LOST',
    `the link was lost (${lost.message}) and could not be made anew within reconnectTimeoutMs (${reconnectTimeoutMs} ms); the last attempt: ${last.message}`,
    { cause: lost },
  );
}

/** A round that took several connections, as one. What the link can do is what it did on the last of them. */
function added(before: SentRound | undefined, sent: SentRound): SentRound {
  if (before === undefined) return sent;
  const { pages } = before;
  const busy = sent.burstBytes > 0 ? sent : before;
  return {
    pages: {
      raw: pages.raw + sent.pages.raw,
      zero: pages.zero + sent.pages.zero,
      hole: pages.hole + sent.pages.hole,
      delta: pages.delta + sent.pages.delta,
      compressed: pages.compressed + sent.pages.compressed,
    },
    rawBytes: before.rawBytes + sent.rawBytes,
    wireBytes: before.wireBytes + sent.wireBytes,
    savedBytes: before.savedBytes + sent.savedBytes,
    scanMs: before.scanMs + sent.scanMs,
    sendMs: before.sendMs + sent.sendMs,
    limitMs: before.limitMs + sent.limitMs,
    totalMs: before.totalMs + sent.totalMs,
    burstBytes: busy.burstBytes,
    burstMs: busy.burstMs,
  };
}

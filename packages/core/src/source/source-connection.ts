import { abortable } from '../abortable.js';
import type { SentEncodings } from '../encoding/sent-encodings.js';
import { GodwitError } from '../errors.js';
import { inTime, settledWithin } from '../in-time.js';
import type { ReceivedFrame } from '../link/frame-stream.js';
import type { LinkConnector, LinkRequest, MigrationLink } from '../link/migration-link.js';
import type { PageStream } from '../link/page-stream.js';
import type { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { MemoryWindows } from '../memory/memory-windows.js';
import type {
  Frame,
  HelloFrame,
  HelloStage,
  MissingFrame,
  ReadyFrame,
  ReceivedPagesFrame,
  ResumedFrame,
  WelcomeFrame,
} from '../protocol/frame.js';
import type { FrameName } from '../protocol/frame-types.js';
import { checkChecksums, FEATURES } from '../protocol/negotiate.js';
import type { SourcePhaseName } from '../protocol/protocol-table.js';
import type { PageQueue } from '../queue/page-queue.js';
import { CLOSING_MS, closeStreams } from '../session/closing-message.js';
import { Connection, isLost } from '../session/connection.js';
import type { ThreadRecipe } from '../thread-recipe.js';
import { answerRequests } from './answer-requests.js';
import { DeviceChannels } from './device-channels.js';
import type { ResolvedOptions } from './options.js';
import { LocalPageChannel, type PageChannel } from './page-channel.js';
import { RoundSender } from './round-sender.js';
import type { RoundSenderParts } from './round-sender-parts.js';

/** Handlers, by type, of frames for which no call waits. */
export type FrameListeners = { readonly [N in FrameName]?: (frame: Extract<Frame, { type: N }>) => void };

export interface SourceConnectionParts {
  readonly connector: LinkConnector;
  readonly options: ResolvedOptions;
  readonly encodings: SentEncodings;
  readonly phase: () => SourcePhaseName;
  readonly setPhase: (phase: SourcePhaseName) => void;
  readonly listeners: FrameListeners;
  /** The parts for post-copy, where it is offered. */
  readonly postcopy: SourcePostcopy | undefined;
  /** Ends the connection when it aborts, also while it is being made. */
  readonly signal: AbortSignal;
}

/** The source's parts for post-copy. */
export interface SourcePostcopy {
  /** `AnsweringParts.open`: 1 from the pause for a switchover by post-copy on. */
  readonly open: Int32Array;
}

/** Pages that the destination names before its answer to a hello. */
export type NamedBefore = ReceivedPagesFrame | MissingFrame;

/** The parts of a round sender that do not come from the connection. */
export type SenderParts = Omit<RoundSenderParts, 'channels' | 'clock' | 'signal' | 'acknowledged'>;

/** The source's phase after the destination has answered a hello of each stage. */
const PHASE_AFTER: Readonly<Record<HelloStage, SourcePhaseName>> = {
  running: 'pre-copy',
  paused: 'loading',
  handedOver: 'handing-over',
  kept: 'release',
  dryRun: 'release',
};

/** One connection of a migration at its source, with the channels that send pages over it. */
export class SourceConnection extends Connection<'source'> {
  readonly request: LinkRequest;
  /** `MigrationLink.pageTarget` */
  readonly pageTarget: (() => ThreadRecipe) | undefined;
  /** `MigrationLink.keepWorkingSet` */
  readonly keepWorkingSet: ((pages: DirtyBitmaps) => void) | undefined;
  readonly #source: SourceConnectionParts;
  readonly #pages: readonly PageStream[];
  #stage: HelloStage = 'running';
  /** Handles the frames that name pages before `resumed`. */
  #onNamed: ((frame: NamedBefore) => void) | undefined;
  /** The wait for `whole`, registered with the frame after which `whole` may come at once. */
  #whole: Promise<unknown> | undefined;
  /** The wait for `ready`, registered with the answer to a hello in stage `paused`: `ready` may be the next frame. */
  #ready: Promise<ReadyFrame> | undefined;
  #channels: readonly PageChannel[] = [];
  #sender: RoundSender | undefined;
  #deviceChannels: DeviceChannels | undefined;
  loadsEarly = false;
  /** Waits for `arrived`, by id. */
  readonly #arrivals = new Map<number, () => void>();
  #questions = 0;
  /** Bytes of payload on the control stream, device state, that are being written. */
  #inFlight = 0;

  private constructor(request: LinkRequest, link: MigrationLink, parts: SourceConnectionParts) {
    const { options, phase, signal } = parts;
    super({
      role: 'source',
      clock: options.clock,
      control: link.control,
      peer: link.peer,
      phase,
      handle: (received) => this.#handleFrame(received),
      signal,
    });
    this.request = request;
    this.pageTarget = link.pageTarget && (() => link.pageTarget?.() as ThreadRecipe);
    this.keepWorkingSet = link.keepWorkingSet && ((pages) => link.keepWorkingSet?.(pages));
    this.#source = parts;
    // A link with fewer streams than requested (a file) has no urgent channel.
    const hasUrgent =
      parts.postcopy !== undefined && link.pageChannels.length === request.pageChannels && request.pageChannels > 0;
    this.attach(link.pageChannels, hasUrgent);
    this.#pages = this.pageChannels;
  }

  /**
   * Connects within `connectTimeoutMs`; a link that is made later is closed. Rejects with the connector's error, `GODWIT_CONNECT_FAILED`
   * or `GODWIT_TIMEOUT`.
   */
  static async connect(request: LinkRequest, parts: SourceConnectionParts): Promise<SourceConnection> {
    const { connector, options, signal } = parts;
    const { clock, connectTimeoutMs } = options;
    const giveUp = new AbortController();
    const onStop = () => giveUp.abort(signal.reason);
    if (signal.aborted) onStop();
    else signal.addEventListener('abort', onStop, { once: true });
    let connecting: Promise<MigrationLink> | undefined;
    try {
      connecting = connector.connect(request, giveUp.signal);
      const link = await inTime(abortable(connecting, signal), clock, connectTimeoutMs, () => noLink(options));
      if (options.checksum) checkChecksums([link.control, ...link.pageChannels], link.peer, 'ours');
      return new SourceConnection(request, link, parts);
    } catch (error) {
      const failure = GodwitError.wrap(error, 'GODWIT_CONNECT_FAILED', 'the destination could not be reached');
      giveUp.abort(failure);
      connecting?.then(
        (link) => void closeStreams([link.control, ...link.pageChannels], clock, { error: failure, retry: true }),
        () => {},
      );
      throw failure;
    } finally {
      signal.removeEventListener('abort', onStop);
    }
  }

  /** Resolves once the destination says that no page is missing there; undefined while none can be missing. */
  get whole(): Promise<unknown> | undefined {
    return this.#whole;
  }

  /** The `ready` that follows a `resumed` in state `loading`. */
  get ready(): Promise<ReadyFrame> | undefined {
    return this.#ready;
  }

  /** The page channels; over a link without page streams there is one, on the control stream. */
  get channels(): readonly PageChannel[] {
    return this.#channels;
  }

  /** Sends rounds over the page channels; throws before `begin`. */
  get sender(): RoundSender {
    if (this.#sender === undefined) throw new GodwitError('GODWIT_INTERNAL', 'no page channels on this connection');
    return this.#sender;
  }

  /** Sends the hello and resolves with the destination's answer; rejects with `GODWIT_TIMEOUT` after `handshakeTimeoutMs`. */
  async greet(
    hello: HelloFrame,
    onNamed: (frame: NamedBefore) => void = nothingReceived,
  ): Promise<WelcomeFrame | ResumedFrame> {
    const { options } = this.#source;
    const { clock, handshakeTimeoutMs } = options;
    this.#stage = hello.stage;
    this.#onNamed = onNamed;
    try {
      const answer = this.ask(hello, 'welcome', 'resumed');
      const answered = await inTime(answer, clock, handshakeTimeoutMs, () => unanswered(handshakeTimeoutMs));
      this.keepAlive(options);
      return answered;
    } finally {
      this.#onNamed = undefined;
    }
  }

  /**
   * Makes the page channels, without any state of an earlier connection, and the sender of rounds over them. `features`: those of the
   * destination's `welcome`.
   */
  begin(windows: MemoryWindows, parts: SenderParts, features: readonly string[]): void {
    const { encodings, options } = this.#source;
    const { clock } = options;
    // No page of a guest that is paused for good is re-armed, since its trackers may have been stopped.
    const { tracker } = this.#isOpen ? { tracker: NEVER_REARMED } : parts;
    encodings.connectionBegins();
    const streams: readonly PageStream[] = this.#pages.length > 0 ? this.#pages : [this.control];
    this.#channels = streams.map(
      (stream) =>
        stream.sendPages?.({
          memory: windows.memory,
          encodings: encodings.shared(),
          maximumPayload: parts.maximumPayload,
          queue: parts.queue.buffers,
          rearm: tracker.rearmRecipes,
          onRearmFailed: (tracker, error) => parts.tracker.lost(tracker, error),
        }) ?? new LocalPageChannel(stream, windows, clock, encodings.encoder(windows, clock, parts.maximumPayload)),
    );
    this.loadsEarly = features.includes(FEATURES.loadEarly);
    const devices = new DeviceChannels(this.#channels, this.signal);
    const onChannels = this.#pages.length > 0 && features.includes(FEATURES.deviceChannels) && devices.count > 0;
    this.#deviceChannels = onChannels ? devices : undefined;
    const sender = new RoundSender({
      ...parts,
      tracker,
      deviceBytes: this.#pages.length > 0 ? () => devices.bytes : parts.deviceBytes,
      channels: this.#channels,
      adaptive: encodings.adaptive,
      clock,
      signal: this.signal,
      acknowledged: (round) => this.#acknowledged(round),
    });
    this.#sender = sender;
    this.#answerRequests(windows, parts.queue);
  }

  /** Answers requests for pages on the urgent channel from now on, for as long as the connection lasts. */
  #answerRequests(windows: MemoryWindows, queue: PageQueue): void {
    const { urgent } = this;
    const { postcopy } = this.#source;
    if (urgent === undefined || postcopy === undefined) return;
    const { open } = postcopy;
    const answering =
      urgent.answerRequests?.({ memory: windows.memory, queue: queue.buffers, open: open.buffer }) ??
      answerRequests(urgent, { windows, queue, open });
    const ended = (error: unknown): void => {
      if (this.signal.aborted || this.#source.phase() === 'release') return;
      const reason = GodwitError.wrap(error, 'GODWIT_INTERNAL', 'the urgent channel failed');
      // The control stream has the destination's reason, or breaks too.
      if (isLost(reason))
        void settledWithin(abortable(this.ended, this.signal), this.#source.options.clock, CLOSING_MS).then(() =>
          this.end(reason),
        );
      else this.end(reason);
    };
    void this.borrow(answering).then(
      () => ended(new GodwitError('GODWIT_LINK_LOST', 'the destination closed the urgent channel')),
      ended,
    );
  }

  get deviceChannels(): DeviceChannels | undefined {
    return this.#deviceChannels;
  }

  /**
   * Resolves when these pieces of device state have arrived; over the control stream alone the answer to a ping shows this. Rejects when
   * the connection ends.
   */
  async arrived(attempt: number, deviceSequences: readonly number[]): Promise<void> {
    if (this.#deviceChannels === undefined) {
      await this.ping();
      return;
    }
    const id = ++this.#questions;
    const answer = new Promise<void>((resolve) => this.#arrivals.set(id, resolve));
    const question = { type: 'awaitPieces', id, attempt, deviceSequences: [...deviceSequences] } as const;
    await abortable(Promise.all([answer, this.control.write(question)]), this.signal);
  }

  /** Bytes that all streams have written, and the payload that they are writing now. */
  get carriedBytes(): number {
    let bytes = this.bytesWritten + this.#inFlight;
    const streams = this.#pages.length > 0 ? this.#pages : [this.control];
    // The bytes that a channel counts beyond those of its stream are being written.
    for (const [index, channel] of this.#channels.entries()) {
      bytes += channel.wireBytes - (streams[index]?.bytesWritten ?? 0);
    }
    return bytes;
  }

  /** Writes a frame, and counts its payload while it is being written. */
  override write(frame: Frame, payload?: readonly Uint8Array[]): Promise<void> {
    const writing = super.write(frame, payload);
    const bytes = payload?.reduce((sum, { byteLength }) => sum + byteLength, 0) ?? 0;
    if (bytes === 0) return writing;
    this.#inFlight += bytes;
    const written = () => {
      this.#inFlight -= bytes;
    };
    writing.then(written, written);
    return writing;
  }

  /** Resolves when nothing borrows guest memory; waits for at most `CLOSING_MS` for a page channel that still does. */
  override async idle(): Promise<void> {
    await super.idle();
    if (this.#sender !== undefined) await settledWithin(this.#sender.idle(), this.#source.options.clock, CLOSING_MS);
  }

  #handleFrame({ frame, payloadBytes }: ReceivedFrame): void {
    const { type } = frame;
    if (payloadBytes > 0) {
      throw new GodwitError('GODWIT_PROTOCOL', `the destination sent a "${type}" frame, which only a source sends`);
    }
    // The phase changes in this tick: the next frame may be legal only in the phase to which this answer leads.
    if (type === 'welcome' || type === 'resumed') {
      this.#source.setPhase(PHASE_AFTER[this.#stage]);
      if (this.#stage === 'paused' && type === 'resumed' && frame.state === 'loading')
        this.#ready = this.expect('ready');
    }
    if ((type === 'ready' || type === 'verified') && this.#source.phase() !== 'going-back')
      this.#source.setPhase('deciding');
    if ((type === 'received' || type === 'missing') && this.#onNamed !== undefined) {
      this.#onNamed(frame);
      return;
    }
    const runs = type === 'running' || (type === 'resumed' && frame.state === 'incomplete');
    if (runs && this.#isOpen) {
      this.#source.setPhase('post-copy');
      this.#whole = this.expect('whole');
    }
    if (type === 'arrived') {
      this.#arrived(frame.id);
      return;
    }
    if (this.answer(frame)) {
      if (type === 'backAck') this.#source.setPhase('pre-copy');
      return;
    }
    const listener = this.#source.listeners[type] as ((frame: Frame) => void) | undefined;
    if (listener !== undefined) {
      listener(frame);
      return;
    }
    // The answer belongs to the attempt that was given up.
    if (this.#source.phase() === 'going-back') return;
    throw new GodwitError('GODWIT_PROTOCOL', `the destination sent "${type}" though nothing was asked of it`);
  }

  /** Whether the guest is paused for a switchover by post-copy, or runs at the destination. */
  get #isOpen(): boolean {
    const { postcopy } = this.#source;
    return postcopy !== undefined && Atomics.load(postcopy.open, 0) === 1;
  }

  #arrived(id: number): void {
    const resolve = this.#arrivals.get(id);
    if (resolve === undefined) {
      throw new GodwitError(
        'GODWIT_PROTOCOL',
        `the destination sent "arrived" for question ${id}, which was not asked`,
      );
    }
    this.#arrivals.delete(id);
    resolve();
  }

  async #acknowledged(round: number): Promise<number> {
    const ack = await this.expect('roundAck');
    if (ack.round === round) return ack.pages;
    throw new GodwitError(
      'GODWIT_PROTOCOL',
      `expected the acknowledgement of round ${round}, got that of ${ack.round}`,
    );
  }
}

/** Takes the place of trackers that are not used any more. */
const NEVER_REARMED: SenderParts['tracker'] = { rearmRecipes: [], rearmPages: () => {}, lost: () => {} };

function nothingReceived(frame: NamedBefore): void {
  throw new GodwitError('GODWIT_PROTOCOL', `the destination sent "${frame.type}", though no round is unfinished`);
}

export function unanswered(handshakeTimeoutMs: number): GodwitError {
  return new GodwitError(
    'GODWIT_TIMEOUT',
    `no answer from the destination within handshakeTimeoutMs (${handshakeTimeoutMs} ms)`,
  );
}

function noLink({ connectTimeoutMs }: ResolvedOptions): GodwitError {
  return new GodwitError(
    'GODWIT_TIMEOUT',
    `no connection within connectTimeoutMs (${connectTimeoutMs} ms): the destination does not answer; start it, compare the address, or raise the limit`,
  );
}

import { abortable } from '../abortable.js';
import type { Clock } from '../clock.js';
import type { MigratableVm } from '../device/migratable-vm.js';
import type { SentEncodings } from '../encoding/sent-encodings.js';
import { GodwitError } from '../errors.js';
import { inTime, settledWithin } from '../in-time.js';
import { CLOSING_MS, closeWithMessage, isLinkLost } from '../link/closing-message.js';
import { ControlChannel } from '../link/control-channel.js';
import type { FrameStream } from '../link/frame-stream.js';
import { keepAlive } from '../link/keepalive.js';
import type { LinkConnector, LinkRequest, MigrationLink } from '../link/migration-link.js';
import type { PageStream } from '../link/page-stream.js';
import type { MemoryWindows } from '../memory/memory-windows.js';
import type { HelloStage, ReceivedPagesFrame, ResumedFrame, WelcomeFrame } from '../protocol/frame.js';
import { checkChecksums, FEATURES, helloOf } from '../protocol/negotiate.js';
import type { ResolvedOptions } from './options.js';
import { LocalPageChannel, type PageChannel } from './page-channel.js';
import { RoundSender, type RoundSenderParts } from './round-sender.js';

export interface SourceConnectionParts {
  readonly vm: MigratableVm;
  readonly connector: LinkConnector;
  readonly options: ResolvedOptions;
  readonly encodings: SentEncodings;
}

/** What a round sender needs besides the link. */
export type SenderParts = Pick<RoundSenderParts, 'memory' | 'tracker' | 'limit' | 'onBatch' | 'maximumPayload'>;

/**
 * One link of a migration, at the source: its control channel, its page channels and what sends pages over them. A
 * migration has one at a time; when it is lost, everything that belongs to it ends with `signal`, and nothing of it is
 * used again.
 */
export class SourceConnection {
  readonly request: LinkRequest;
  readonly link: MigrationLink;
  readonly control: ControlChannel;
  /** Aborts when the link is lost, with that as the reason, or with the signal that was given. */
  readonly signal: AbortSignal;
  readonly #over: AbortController;
  readonly #parts: SourceConnectionParts;
  #channels: readonly PageChannel[] = [];
  #sender: RoundSender | undefined;
  #ended = false;

  private constructor(request: LinkRequest, link: MigrationLink, over: AbortController, parts: SourceConnectionParts) {
    this.request = request;
    this.link = link;
    this.#over = over;
    this.signal = over.signal;
    this.#parts = parts;
    this.control = new ControlChannel(link.control, parts.options.clock, (error) => over.abort(error));
  }

  /** Makes the link, within `connectTimeoutMs`. `over` ends it, and the making of it. A link that comes too late is dropped. */
  static async connect(
    request: LinkRequest,
    parts: SourceConnectionParts,
    over: AbortController,
  ): Promise<SourceConnection> {
    const { connector, options } = parts;
    const { clock, connectTimeoutMs } = options;
    let connecting: Promise<MigrationLink> | undefined;
    try {
      connecting = connector.connect(request, over.signal);
      const link = await inTime(abortable(connecting, over.signal), clock, connectTimeoutMs, () => noLink(options));
      if (options.checksum) checkChecksums([link.control, ...link.pageChannels], link.peer, 'ours');
      return new SourceConnection(request, link, over, parts);
    } catch (error) {
      const failure = GodwitError.wrap(error, 'GODWIT_CONNECT_FAILED', 'the destination could not be reached');
      over.abort(failure);
      connecting?.then(
        (link) => drop(link, clock, failure),
        () => {},
      );
      throw failure;
    }
  }

  /** Page channels of the link; where it has none, pages travel on the control stream. */
  get channels(): readonly PageChannel[] {
    return this.#channels;
  }

  /** Available after `begin`. */
  get sender(): RoundSender {
    if (this.#sender === undefined) throw new GodwitError('GODWIT_INTERNAL', 'no page channels on this connection');
    return this.#sender;
  }

  /** Bytes that all streams of the link have carried. */
  get wireBytes(): number {
    return this.#streams.reduce((sum, stream) => sum + stream.bytesWritten, 0);
  }

  /** Says who we are, and resolves with the destination's answer, within `handshakeTimeoutMs`. */
  async greet(
    stage: HelloStage,
    onReceived: (frame: ReceivedPagesFrame) => void,
  ): Promise<WelcomeFrame | ResumedFrame> {
    const { vm, options, encodings } = this.#parts;
    const { clock, handshakeTimeoutMs, migrationId } = options;
    const channels = this.link.pageChannels.length;
    const { connection } = this.request;
    const hello = helloOf(
      vm,
      migrationId,
      featuresOf(options, encodings),
      channels,
      options.description,
      connection,
      stage,
    );
    const answer = abortable(this.control.greet(hello, onReceived), this.signal);
    const answered = await inTime(answer, clock, handshakeTimeoutMs, () => unanswered(handshakeTimeoutMs));
    void keepAlive({ ...options, peer: 'destination', streams: () => this.#streams, signal: this.signal });
    return answered;
  }

  /** Makes page channels, which begin with nothing of those before them, and what sends rounds over them. */
  begin(windows: MemoryWindows, parts: SenderParts): void {
    const { encodings, options } = this.#parts;
    const { clock } = options;
    const { pageChannels, control } = this.link;
    encodings.connectionBegins();
    const streams: readonly PageStream[] = pageChannels.length > 0 ? pageChannels : [control];
    this.#channels = streams.map(
      (stream) =>
        stream.sendPages?.(windows.memory, encodings.shared(), parts.maximumPayload) ??
        new LocalPageChannel(stream, windows, clock, encodings.encoder(windows, clock)),
    );
    this.#sender = new RoundSender({
      ...parts,
      channels: this.#channels,
      clock,
      signal: this.signal,
      acknowledged: (round) => this.#acknowledged(round),
    });
  }

  /** Measures the round trip, at most `handshakeTimeoutMs` of it. */
  async ping(): Promise<number> {
    return abortable(this.control.ping(), this.signal);
  }

  /**
   * Why the connection is over, after `error` came from using it: a stream that broke says nothing, the destination may
   * have told the reason on the control stream.
   */
  async reasonFor(error: GodwitError): Promise<GodwitError> {
    if (!isLinkLost(error)) return error;
    await settledWithin(this.control.ended, this.#parts.options.clock, CLOSING_MS);
    return this.control.failure?.remote ? this.control.failure : error;
  }

  /** Drops the link at once. Resolves when nothing borrows guest memory any more. */
  async drop(error: GodwitError): Promise<void> {
    this.#end(error);
    for (const stream of this.#streams) stream.abort(error);
    await Promise.all(this.#streams.map((stream) => stream.settled?.()));
    await this.#idle();
  }

  /**
   * Tells the peer why, as far as it still listens, and lets go of every stream. Without `error`, just ends. Returns whether
   * the peer is known to have heard of it: that the carrier has taken the words says little where the cable is cut.
   */
  async closeWithMessage(error: GodwitError | undefined): Promise<boolean> {
    const { clock } = this.#parts.options;
    const deaf = isLinkLost(this.control.failure);
    const silent = error === undefined || error.remote || deaf;
    // What came was wrong, and nothing more of it is read: the carrier is well, and that it takes the words has to do.
    const notReading = !deaf && this.control.failure !== undefined;
    this.#end(error ?? new GodwitError('GODWIT_LINK_LOST', 'the migration is over'));
    const said = await closeWithMessage(this.#streams, clock, silent ? undefined : error);
    await this.#idle();
    await settledWithin(this.control.ended, clock, CLOSING_MS);
    return error === undefined || error.remote || (!deaf && (notReading ? said : this.control.heardOut));
  }

  get #streams(): readonly FrameStream[] {
    return [this.link.control, ...this.link.pageChannels];
  }

  #end(reason: GodwitError): void {
    if (this.#ended) return;
    this.#ended = true;
    this.control.finish();
    this.#over.abort(reason);
  }

  /** Dropped streams give back what they borrowed: the embedder may free guest memory when we are done. */
  async #idle(): Promise<void> {
    if (this.#sender !== undefined) await settledWithin(this.#sender.idle(), this.#parts.options.clock, CLOSING_MS);
  }

  async #acknowledged(round: number): Promise<number> {
    const ack = await this.control.expect('roundAck');
    if (ack.round === round) return ack.pages;
    throw new GodwitError(
      'GODWIT_PROTOCOL',
      `expected the acknowledgement of round ${round}, got that of ${ack.round}`,
    );
  }
}

/** What the hello offers. */
export function featuresOf({ verify, checksum }: ResolvedOptions, encodings: SentEncodings): readonly string[] {
  return [...(verify ? [FEATURES.verify] : []), ...(checksum ? [FEATURES.checksum] : []), ...encodings.features];
}

function drop(link: MigrationLink, clock: Clock, error: GodwitError): void {
  void closeWithMessage([link.control, ...link.pageChannels], clock, error);
}

export function unanswered(handshakeTimeoutMs: number): GodwitError {
  return new GodwitError(
    'GODWIT_TIMEOUT',
    `no answer from the destination within handshakeTimeoutMs (${handshakeTimeoutMs} ms)`,
  );
}

function noLink({ connectTimeoutMs }: ResolvedOptions): GodwitError {
  return new GodwitError('GODWIT_TIMEOUT', `no connection within connectTimeoutMs (${connectTimeoutMs} ms)`);
}

import { abortable } from '../abortable.js';
import type { Clock } from '../clock.js';
import type { MigratableVm } from '../device/migratable-vm.js';
import type { PageEncoding } from '../encoding/page-encoding.js';
import { GodwitError } from '../errors.js';
import { inTime, settledWithin } from '../in-time.js';
import { CLOSING_MS, closeWithMessage, isLinkLost } from '../link/closing-message.js';
import type { FrameStream } from '../link/frame-stream.js';
import { type KeepaliveTimes, keepAlive } from '../link/keepalive.js';
import type { IncomingLink } from '../link/migration-link.js';
import type { PageStream } from '../link/page-stream.js';
import type { MemoryWindows } from '../memory/memory-windows.js';
import { PageRunList } from '../memory/page-run.js';
import type { IncomingEvent } from '../migration-event.js';
import type { DestinationOwnershipEvent, DestinationOwnershipState } from '../ownership/destination-ownership.js';
import type { Ownership } from '../ownership/ownership.js';
import type { FrameName, HelloFrame, ResumedFrame, WelcomeFrame } from '../protocol/frame.js';
import { checkChecksums, FEATURES } from '../protocol/negotiate.js';
import type { DeviceLoader } from './device-loader.js';
import { attachChannels } from './handshake.js';
import type { PendingConnection } from './incoming-links.js';
import { PageReceiver } from './page-receiver.js';
import type { RamCheck } from './ram-check.js';
import { checkPayload, isPageFrame, readPageChannel, takePageFrame } from './read-page-channel.js';
import type { SourceFrames } from './source-frames.js';

/** What the source may say on the control stream, by where the destination's ownership stands. */
const ALLOWED = {
  /** RAM and device state arrive; the guest runs at the source. */
  receiving: ['pages', 'zeroPages', 'deltaPages', 'compressedPages', 'roundEnd', 'device', 'switchover'],
  /** All is loaded and `ready` was sent; nobody runs the guest. */
  ready: ['digests', 'digestsEnd', 'go'],
} as const satisfies Partial<Record<DestinationOwnershipState, readonly FrameName[]>>;

/** Runs in one `received` frame. */
const RUNS_PER_FRAME = 16_384;

/** What an incoming migration has got so far; it outlives the connection over which it came. */
export interface ReceivedState {
  readonly vm: MigratableVm;
  /** What the source was told at first. */
  readonly welcome: WelcomeFrame;
  readonly windows: MemoryWindows;
  /** Those that were agreed on. */
  readonly encodings: readonly PageEncoding[];
  readonly loader: DeviceLoader;
  readonly check: RamCheck;
  /** That of the last connection that had page channels. */
  receiver: PageReceiver | undefined;
  /** How long loading took, in milliseconds. */
  loadMs: number;
}

export interface IncomingConnectionParts extends KeepaliveTimes {
  readonly clock: Clock;
  readonly handshakeTimeoutMs: number;
  readonly emit: (event: IncomingEvent) => void;
  readonly ownership: Ownership<DestinationOwnershipState, DestinationOwnershipEvent>;
  /** Ends the incoming migration, and with it this connection. */
  readonly signal: AbortSignal;
}

/**
 * One link of a migration, at the destination: what reads its streams into guest memory. When it is over, for whatever
 * reason, all that it still reads is ignored, above all no `go`; and once `drop` or `closeWithMessage` has resolved, nothing of
 * it touches guest memory any more.
 */
export class IncomingConnection {
  readonly link: IncomingLink;
  readonly hello: HelloFrame;
  readonly frames: SourceFrames;
  readonly #parts: IncomingConnectionParts;
  readonly #over = new AbortController();
  /** Loops that read frames, and may be writing guest memory. */
  readonly #readers: Promise<unknown>[] = [];
  #channels: readonly PageStream[] = [];
  #receiver: PageReceiver | undefined;
  #keptAlive = false;

  constructor({ link, hello, frames }: PendingConnection, parts: IncomingConnectionParts) {
    this.link = link;
    this.hello = hello;
    this.frames = frames;
    this.#parts = parts;
    const { signal } = parts;
    // In the same tick: a `go` that is read after this is ignored, one that was read before is.
    const onStop = () => this.end(signal.reason);
    if (signal.aborted) onStop();
    else {
      signal.addEventListener('abort', onStop, { once: true });
      this.signal.addEventListener('abort', () => signal.removeEventListener('abort', onStop), { once: true });
    }
  }

  /** Aborts when the connection is over, with the reason. */
  get signal(): AbortSignal {
    return this.#over.signal;
  }

  get bytesRead(): number {
    return this.#streams.reduce((sum, stream) => sum + stream.bytesRead, 0);
  }

  /** From now on every frame is ignored. */
  end(reason: GodwitError): void {
    this.#over.abort(reason);
    this.#receiver?.board.stop();
  }

  /** Registers work that touches guest memory: the connection is not over before it has ended. */
  reading<T>(work: Promise<T>): Promise<T> {
    work.catch(() => {});
    this.#readers.push(work);
    return work;
  }

  /**
   * Says how far the migration has come here: over a further connection, in the place of `welcome`. A source that does not
   * take it within `handshakeTimeoutMs` has no link to us: silence is not noticed yet.
   */
  async resumed(name: ResumedFrame['state'], state: ReceivedState): Promise<void> {
    const { clock, handshakeTimeoutMs } = this.#parts;
    await inTime(this.#sayResumed(name, state), clock, handshakeTimeoutMs, () => notTaken(handshakeTimeoutMs));
    this.#keepAlive();
  }

  async #sayResumed(name: ResumedFrame['state'], state: ReceivedState): Promise<void> {
    const { control } = this.link;
    this.#checkStreams(state);
    const { receiver, loader } = state;
    // A source that has not read our `welcome` may know of a destination before this one, and of pages which that one had.
    if (name === 'receiving' && this.hello.stage === 'running' && nothingCame(state)) {
      await this.#during(control.write(state.welcome));
      return;
    }
    if (name === 'receiving' && receiver !== undefined) {
      const runs = new PageRunList();
      for (const [block, bitmap] of receiver.board.received.blocks.entries()) {
        runs.clear();
        const flat = bitmap.runs(runs).toFlatArray();
        for (let at = 0; at < flat.length; at += 2 * RUNS_PER_FRAME) {
          await this.#during(control.write({ type: 'received', block, runs: flat.slice(at, at + 2 * RUNS_PER_FRAME) }));
        }
      }
    }
    const round = receiver?.round ?? 1;
    await this.#during(
      control.write({
        type: 'resumed',
        state: name,
        round,
        deviceSequences: loader.sequences,
        deviceResets: [],
        incarnation: state.welcome.incarnation,
        resumeMs: 0,
        sinceReadyMs: 0,
      }),
    );
  }

  /** Reads what the source sends until `go`, which moves the ownership; rejects with why it ended otherwise. */
  async untilGo(state: ReceivedState): Promise<void> {
    const { hello, link, frames } = this;
    const { clock, handshakeTimeoutMs, ownership } = this.#parts;
    this.#keepAlive();
    if (hello.pageChannels > 0) {
      this.#channels = await attachChannels(link, hello, frames, { clock, signal: this.signal, handshakeTimeoutMs });
    }
    this.signal.throwIfAborted();
    this.#checkStreams(state);
    const elsewhere = this.#channels.some((channel) => channel.receivePages !== undefined);
    const count = Math.max(1, this.#channels.length);
    const receiver = new PageReceiver(state.windows, count, clock, state.encodings, elsewhere, state.receiver);
    this.#receiver = receiver;
    state.receiver = receiver;
    const control = this.reading(this.#readControl(state, receiver));
    for (const [index, stream] of this.#channels.entries()) {
      void this.reading(this.#readChannel(stream, index, receiver, control));
    }
    try {
      await abortable(control, this.signal);
    } catch (error) {
      // Whatever happens at the same time: either `go` was read first, or it is ignored for ever.
      if (!ownership.mayRunGuest) throw error;
    }
  }

  /** The source is over and keeps its guest: it has nothing to say but why. */
  async lastWords(): Promise<never> {
    const { frame } = await this.#during(this.frames.next());
    throw new GodwitError(
      'GODWIT_PROTOCOL',
      `expected "error" from a source that keeps its guest, got "${frame.type}"`,
    );
  }

  /** Resolves when the source has let go of its copy of the guest. */
  async untilReleased(): Promise<void> {
    const { frame } = await this.#during(this.frames.next());
    if (frame.type === 'released') return;
    throw new GodwitError('GODWIT_PROTOCOL', `expected "released" from the source, got "${frame.type}"`);
  }

  /** Drops the link at once. Resolves when nothing of it touches guest memory any more. */
  async drop(reason: GodwitError): Promise<void> {
    this.end(reason);
    for (const stream of this.#streams) stream.abort(reason);
    await Promise.all(this.#streams.map((stream) => stream.settled?.()));
    await Promise.allSettled(this.#readers);
  }

  /**
   * Tells the source why, as far as it still listens, and lets go of every stream. Without `error`, just ends. Returns
   * whether the carrier has taken what there was to say.
   */
  async closeWithMessage(error: GodwitError | undefined): Promise<boolean> {
    const { clock } = this.#parts;
    const said = await closeWithMessage(this.#streams, clock, error?.remote ? undefined : error);
    this.end(error ?? new GodwitError('GODWIT_LINK_LOST', 'the migration is over'));
    // Only now: until the streams are dropped, pages may still be on their way into the VM's memory.
    await settledWithin(Promise.allSettled(this.#readers), clock, CLOSING_MS);
    return said;
  }

  get #streams(): readonly FrameStream[] {
    return [this.link.control, ...this.#channels];
  }

  #checkStreams({ welcome }: ReceivedState): void {
    if (welcome.features.includes(FEATURES.checksum)) checkChecksums(this.#streams, this.link.peer, "the source's");
  }

  /** From our answer to its hello on, a source that says nothing is noticed. */
  #keepAlive(): void {
    if (this.#keptAlive) return;
    this.#keptAlive = true;
    void keepAlive({ ...this.#parts, peer: 'source', streams: () => this.#streams, signal: this.signal });
  }

  #during<T>(work: Promise<T>): Promise<T> {
    return abortable(work, this.signal);
  }

  /** Reads a page channel to its end, here or on the thread that it lives on. */
  async #readChannel(
    stream: PageStream,
    channel: number,
    receiver: PageReceiver,
    control: Promise<unknown>,
  ): Promise<void> {
    const onRoundEnd = (round: number, pages: number) => this.#channelEnded(channel, round, pages, receiver);
    const { board, windows } = receiver;
    try {
      if (stream.receivePages !== undefined && board.buffers !== undefined) {
        const encodings = receiver.encodings.map(({ recipe }) => recipe);
        await stream.receivePages({ channel, memory: windows.memory, board: board.buffers, encodings, onRoundEnd });
      } else {
        await readPageChannel(stream, receiver.writer(channel), onRoundEnd);
      }
    } catch (error) {
      // When a channel breaks, the control stream has the reason, or breaks too.
      if (isLinkLost(error)) {
        if (receiver.sealed) return;
        await settledWithin(abortable(control, this.signal), this.#parts.clock, CLOSING_MS);
      }
      this.end(GodwitError.wrap(error, 'GODWIT_INTERNAL', `page channel ${channel} failed`));
    }
  }

  /** Reads the control stream up to `go`. */
  async #readControl(state: ReceivedState, receiver: PageReceiver): Promise<void> {
    const { frames, signal } = this;
    const { clock, ownership } = this.#parts;
    const { loader, check } = state;
    const control = frames.stream;
    for (;;) {
      const received = await frames.next();
      signal.throwIfAborted();
      const { frame, payloadBytes } = received;
      const allowed: readonly string[] = ownership.state === 'ready' ? ALLOWED.ready : ALLOWED.receiving;
      const onControl = this.#channels.length === 0 || !isPageFrame(frame.type);
      if (!allowed.includes(frame.type) || !onControl) {
        throw new GodwitError(
          'GODWIT_PROTOCOL',
          `the source sent "${frame.type}" on the control stream in phase "${ownership.state}"`,
        );
      }
      checkPayload(frame.type, payloadBytes);
      switch (frame.type) {
        case 'pages':
        case 'zeroPages':
        case 'deltaPages':
        case 'compressedPages':
        case 'roundEnd':
          await takePageFrame(control, received, receiver.writer(0), (round, pages) =>
            this.#channelEnded(0, round, pages, receiver),
          );
          break;
        case 'device': {
          loader.admit(frame, payloadBytes);
          const chunk = new Uint8Array(payloadBytes);
          if (payloadBytes > 0) await control.readPayload([chunk]);
          loader.accept(frame, chunk);
          break;
        }
        case 'switchover': {
          receiver.seal(frame.round);
          const start = clock.now();
          await frames.during(loader.loadAll(), 'ready');
          signal.throwIfAborted();
          state.loadMs = clock.now() - start;
          ownership.apply('ready');
          await control.write({ type: 'ready', attempt: 1, loadMs: state.loadMs });
          break;
        }
        case 'digests':
          await check.compare(control, frame, payloadBytes);
          break;
        case 'digestsEnd':
          await control.write(await frames.during(check.finish(), 'verified'));
          break;
        case 'go':
          check.admitGo();
          ownership.apply('go');
          ownership.apply('granted');
          return;
        default:
          break;
      }
      signal.throwIfAborted();
    }
  }

  /** All pages of a round are in guest memory once every channel has ended it. */
  async #channelEnded(channel: number, round: number, channelPages: number, receiver: PageReceiver): Promise<void> {
    this.signal.throwIfAborted();
    const pages = receiver.channelEnded(channel, channelPages);
    if (pages === undefined) return;
    this.#parts.emit({ type: 'round', round, pages });
    await this.link.control.write({ type: 'roundAck', round, pages });
  }
}

function notTaken(handshakeTimeoutMs: number): GodwitError {
  return new GodwitError(
    'GODWIT_LINK_LOST',
    `the source did not take the answer to its hello within handshakeTimeoutMs (${handshakeTimeoutMs} ms)`,
  );
}

/** Whether the source has not sent anything that is kept. */
function nothingCame({ receiver, loader }: ReceivedState): boolean {
  const noPages = receiver === undefined || (receiver.round === 1 && receiver.board.received.isEmpty());
  return noPages && loader.sequences.every((sequence) => sequence === 0);
}

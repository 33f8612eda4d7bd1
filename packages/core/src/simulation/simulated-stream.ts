import { GodwitError } from '../errors.js';
import type { ReceivedFrame } from '../link/frame-stream.js';
import type { PageStream, RemoteReading, RemoteSending } from '../link/page-stream.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import type { Frame } from '../protocol/frame.js';
import { PageQueue } from '../queue/page-queue.js';
import { answerRequests } from '../source/answer-requests.js';
import type { PageChannel } from '../source/page-channel.js';
import { FrameQueue } from './frame-queue.js';
import type { PageKinds } from './page-kinds.js';
import type { Parcel } from './parcel.js';
import type { SimulatedMissing } from './simulated-faults.js';
import { countedWindows } from './simulated-memory.js';
import type { SimulatedWire } from './simulated-network.js';
import { receiveCountedPages, SimulatedPageChannel } from './simulated-page-channel.js';

/** Bytes that count as the framing of each frame. */
export const FRAME_BYTES = 32;

/** Frames that a direction holds before its writer waits. */
const CAPACITY = 4;

/** The parts that both ends of a link share. */
export interface SimulatedLinkParts {
  readonly kinds: PageKinds;
  /** About how long one batch of pages takes on the wire, in milliseconds. */
  readonly batchMs: number;
}

/** One end of a stream over a simulated network. It carries frames and the lengths of their payloads, but no bytes. */
export class SimulatedStream implements PageStream {
  bytesWritten = 0;
  bytesRead = 0;
  readonly #out: FrameQueue<Parcel>;
  readonly #in: FrameQueue<Parcel>;
  readonly #wire: SimulatedWire;
  readonly #parts: SimulatedLinkParts;
  readonly sendPages?: NonNullable<PageStream['sendPages']>;
  readonly receivePages?: NonNullable<PageStream['receivePages']>;
  readonly answerRequests?: NonNullable<PageStream['answerRequests']>;
  readonly putMissing?: NonNullable<PageStream['putMissing']>;
  #missing: SimulatedMissing | undefined;
  #payloadBytes = 0;
  /** The previous write: frames keep the order of the calls. */
  #last: Promise<void> = Promise.resolve();
  #delivered: Promise<void> = Promise.resolve();
  /** Aborts when the stream is dropped: frames that it has not carried yet take no more time. */
  readonly #dropped = new AbortController();

  private constructor(
    out: FrameQueue<Parcel>,
    incoming: FrameQueue<Parcel>,
    wire: SimulatedWire,
    parts: SimulatedLinkParts,
    isPages: boolean,
  ) {
    this.#out = out;
    this.#in = incoming;
    this.#wire = wire;
    this.#parts = parts;
    if (!isPages) return;
    this.sendPages = ({ memory }: RemoteSending): PageChannel => this.#sendPages(memory);
    this.receivePages = (reading: RemoteReading) => receiveCountedPages(this, reading, () => this.#missing);
    this.putMissing = ({ options }) => {
      this.#missing = options as SimulatedMissing;
    };
    this.answerRequests = ({ memory, queue, open }) =>
      answerRequests(this, {
        windows: countedWindows(memory),
        queue: PageQueue.join(memory, queue),
        open: new Int32Array(open),
      });
  }

  /** Both ends of a stream, and its two directions. */
  static pair(forth: SimulatedWire, back: SimulatedWire, parts: SimulatedLinkParts, isPages: boolean) {
    const queues = [new FrameQueue<Parcel>(CAPACITY), new FrameQueue<Parcel>(CAPACITY)] as const;
    const near = new SimulatedStream(queues[0], queues[1], forth, parts, isPages);
    const far = new SimulatedStream(queues[1], queues[0], back, parts, isPages);
    return { near, far, queues };
  }

  write(frame: Frame, payload: readonly Uint8Array[] = []): Promise<void> {
    const payloadBytes = payload.reduce((sum, chunk) => sum + chunk.byteLength, 0);
    const bytes = FRAME_BYTES + payloadBytes;
    return this.#carry(bytes, () => this.#wire.control(bytes), { frame, payloadBytes });
  }

  async read(): Promise<ReceivedFrame | null> {
    const parcel = await this.take();
    if (parcel === null) return null;
    if (!('frame' in parcel)) throw new GodwitError('GODWIT_INTERNAL', 'counted pages are no frames');
    this.#payloadBytes = parcel.payloadBytes;
    return parcel;
  }

  /** The payload has no contents: `into` stays as it is. */
  async readPayload(into: readonly Uint8Array[]): Promise<void> {
    const bytes = into.reduce((sum, chunk) => sum + chunk.byteLength, 0);
    if (bytes !== this.#payloadBytes) {
      throw new GodwitError(
        'GODWIT_INVALID_ARGUMENT',
        `${bytes} bytes asked for, the payload has ${this.#payloadBytes}`,
      );
    }
    this.#in.throwIfFailed();
    this.#payloadBytes = 0;
  }

  async skipPayload(): Promise<void> {
    this.#payloadBytes = 0;
  }

  /** The next parcel; `null` at the end. */
  async take(): Promise<Parcel | null> {
    const parcel = await this.#in.take();
    if (parcel !== null) this.bytesRead += 'frame' in parcel ? FRAME_BYTES + parcel.payloadBytes : parcel.bytes;
    return parcel;
  }

  async close(): Promise<void> {
    this.#in.unbounded();
    await this.#last;
    await this.#delivered;
    this.#out.end();
    await this.#in.over;
  }

  abort(reason: GodwitError): void {
    const lost = new GodwitError('GODWIT_LINK_LOST', 'the peer dropped the link');
    // When both directions have ended, the peer must still read what was sent.
    if (this.#in.ended && this.#out.ended) return;
    this.#dropped.abort(reason);
    this.#in.fail({ reader: reason, writer: lost });
    this.#out.fail({ reader: lost, writer: reason });
  }

  #sendPages(memory: GuestMemory): PageChannel {
    const { network } = this.#wire;
    const { kinds, batchMs } = this.#parts;
    return new SimulatedPageChannel(memory.pageSize, kinds, network, {
      batchMs,
      stream: this,
      carry: (bytes, channelMs, pages) => {
        const leaves = () => Math.max(this.#wire.pages(bytes), network.clock.now() + channelMs);
        return this.#carry(bytes, leaves, { pages, bytes });
      },
      signal: this.#dropped.signal,
    });
  }

  /**
   * Resolves when the last byte has left, at the time that `leaves` returns; the parcel then arrives without further calls.
   */
  #carry(bytes: number, leaves: () => number, parcel: Parcel): Promise<void> {
    const { signal } = this.#dropped;
    const { clock } = this.#wire.network;
    const writing = this.#last.then(async () => {
      signal.throwIfAborted();
      await clock.sleep(leaves() - clock.now(), signal);
      this.bytesWritten += bytes;
      const travelling = clock.sleep(this.#wire.network.travelMs());
      this.#delivered = this.#delivered
        .then(() => travelling)
        .then(() => this.#out.put(parcel))
        .catch(() => {});
    });
    this.#last = writing.catch(() => {});
    return writing;
  }
}

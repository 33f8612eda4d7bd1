import { checkOptions } from '../argument.js';
import { type Clock, systemClock } from '../clock.js';
import { GodwitError } from '../errors.js';
import type { FrameStream, ReceivedFrame } from '../link/frame-stream.js';
import type { IncomingLink, LinkConnector, LinkListener } from '../link/migration-link.js';
import type { Frame } from '../protocol/frame.js';
import { FrameQueue, type Parcel } from '../simulation/frame-queue.js';
import { MemoryWire } from './memory-wire.js';

/** Bytes of framing that this link counts for each frame. */
const FRAME_BYTES = 16;

/**
 * Called for each frame in flight: returns the frame, which may be changed, or `undefined` to lose it. `channel` is -1 on the control
 * stream, else the page channel's index.
 */
export type FrameTap = (
  frame: Frame,
  payload: Uint8Array | undefined,
  channel: number,
) => { frame: Frame; payload: Uint8Array | undefined } | undefined;

/** The behaviour of a `memoryLink`, and callbacks for its frames. */
export interface MemoryLinkOptions {
  /** Frames that a direction holds before its writer waits. Default 4. */
  readonly capacity?: number;
  /** Called for each frame that the source sends. */
  readonly fromSource?: FrameTap;
  /** Called for each frame that the destination sends. */
  readonly fromDestination?: FrameTap;
  /**
   * When a payload is copied from the sender's memory: at the call of `write` (`early`, the default), or at the last moment at which
   * it is borrowed (`late`).
   */
  readonly copies?: 'early' | 'late';
  /** Bytes per second of each direction, shared by all streams of a link. Default 0: no limit. */
  readonly bytesPerSecond?: number;
  /** Milliseconds from one end to the other, besides the time that the bytes take. Default 0. */
  readonly latencyMs?: number;
  /** The clock of `bytesPerSecond` and `latencyMs`. Default: `systemClock`. */
  readonly clock?: Clock;
}

/** Both ends of a link within a process. */
export interface MemoryLink {
  readonly connector: LinkConnector;
  readonly listener: LinkListener;
  /**
   * Cuts every stream that was made so far, for both sides. With `delivered`, frames in flight still arrive; else they are lost.
   */
  cut(options?: { readonly delivered?: boolean }): void;
  /** Number of directions of streams that have neither ended nor failed. */
  readonly openStreams: number;
}

class MemoryFrameStream implements FrameStream {
  bytesWritten = 0;
  bytesRead = 0;
  /** The streams say that they have checksums but need none: frames are not turned into bytes, so that they cannot be garbled. */
  readonly checksums: boolean;
  readonly #out: FrameQueue;
  readonly #in: FrameQueue;
  readonly #wire: MemoryWire;
  readonly #tap: FrameTap;
  readonly #channel: number;
  readonly #copyLate: boolean;
  #payload: Uint8Array | undefined;
  /** The previous write: frames keep the order of the calls. */
  #last: Promise<void> = Promise.resolve();
  #delivered: Promise<void> = Promise.resolve();
  /** Aborts when the stream is dropped: frames that it has not carried yet take no more time. */
  readonly #dropped = new AbortController();

  constructor(
    out: FrameQueue,
    incoming: FrameQueue,
    wire: MemoryWire,
    tap: FrameTap,
    channel: number,
    copyLate: boolean,
    checksums: boolean,
  ) {
    this.checksums = checksums;
    this.#out = out;
    this.#in = incoming;
    this.#wire = wire;
    this.#tap = tap;
    this.#channel = channel;
    this.#copyLate = copyLate;
  }

  write(frame: Frame, payload?: readonly Uint8Array[]): Promise<void> {
    const copy = structuredClone(frame);
    const early = this.#copyLate ? undefined : joined(payload);
    const bytes = FRAME_BYTES + (payload?.reduce((sum, chunk) => sum + chunk.byteLength, 0) ?? 0);
    const writing = this.#last.then(async () => {
      await this.#wire.carry(bytes, this.#dropped.signal);
      this.bytesWritten += bytes;
      const tapped = this.#tap(copy, this.#copyLate ? joined(payload) : early, this.#channel);
      if (tapped === undefined) return;
      if (this.#wire.latencyMs === 0) await this.#out.put(tapped);
      else this.#deliverLater(tapped);
    });
    this.#last = writing.catch(() => {});
    return writing;
  }

  /** Delivers a frame after the latency; the writer does not wait for it. */
  #deliverLater(parcel: Parcel): void {
    const travelling = this.#wire.travel();
    this.#delivered = this.#delivered
      .then(() => travelling)
      .then(() => this.#out.put(parcel))
      .catch(() => {});
  }

  async read(): Promise<ReceivedFrame | null> {
    if (this.#payload !== undefined)
      throw new GodwitError('GODWIT_INVALID_STATE', 'the payload of the last frame was not read');
    const parcel = await this.#in.take();
    if (parcel === null) return null;
    this.bytesRead += FRAME_BYTES;
    this.#payload = parcel.payload !== undefined && parcel.payload.byteLength > 0 ? parcel.payload : undefined;
    return { frame: parcel.frame, payloadBytes: parcel.payload?.byteLength ?? 0 };
  }

  async readPayload(into: readonly Uint8Array[]): Promise<void> {
    // As with a socket, the first bytes are there at once, the others come later, and none comes after the stream was dropped.
    const payload = this.#payload ?? new Uint8Array();
    const here = Math.floor(payload.byteLength / 2) + 1;
    this.#in.throwIfFailed();
    fill(into, payload, 0, here);
    await Promise.resolve();
    this.#in.throwIfFailed();
    this.#payload = undefined;
    const at = fill(into, payload, here, Number.POSITIVE_INFINITY);
    if (at !== payload.byteLength)
      throw new GodwitError('GODWIT_INVALID_ARGUMENT', `${at} bytes asked for, the payload has ${payload.byteLength}`);
    this.bytesRead += at;
  }

  async skipPayload(): Promise<void> {
    this.#payload = undefined;
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
}

/**
 * Makes a connector and a listener in one process that pass frames without turning them into bytes: for tests of the engine and of
 * embedders' code. Payloads are copied once. With a clock and a rate it simulates a network.
 *
 * @example
 * const { connector, listener } = memoryLink();
 * const incoming = receive(listener, { prepare: () => destinationVm });
 * await migrate(sourceVm, connector).result;
 */
export function memoryLink(options: MemoryLinkOptions = {}): MemoryLink {
  checkOptions<MemoryLinkOptions>('memoryLink', options, {
    capacity: true,
    fromSource: true,
    fromDestination: true,
    copies: true,
    bytesPerSecond: true,
    latencyMs: true,
    clock: true,
  });
  const { capacity = 4, clock = systemClock, bytesPerSecond = 0, latencyMs = 0 } = options;
  const waiting: IncomingLink[] = [];
  const queues: FrameQueue[] = [];
  let wake: (() => void) | undefined;
  const untouched: FrameTap = (frame, payload) => ({ frame, payload });
  const pair = (
    forthWire: MemoryWire,
    backWire: MemoryWire,
    channel: number,
    sums: boolean,
  ): [FrameStream, FrameStream] => {
    const forth = new FrameQueue(capacity);
    const back = new FrameQueue(capacity);
    queues.push(forth, back);
    const late = options.copies === 'late';
    return [
      new MemoryFrameStream(forth, back, forthWire, options.fromSource ?? untouched, channel, late, sums),
      new MemoryFrameStream(back, forth, backWire, options.fromDestination ?? untouched, channel, late, sums),
    ];
  };
  return {
    connector: {
      async connect({ pageChannels, checksums = false }, signal) {
        signal.throwIfAborted();
        const forth = new MemoryWire(clock, bytesPerSecond, latencyMs);
        const back = new MemoryWire(clock, bytesPerSecond, latencyMs);
        const [control, theirControl] = pair(forth, back, -1, checksums);
        const pages = Array.from({ length: pageChannels }, (_, index) => pair(forth, back, index, checksums));
        waiting.push({
          control: theirControl,
          peer: 'memory',
          pageChannels: async () => pages.map(([, theirs]) => theirs),
        });
        wake?.();
        return { control, pageChannels: pages.map(([mine]) => mine), peer: 'memory' };
      },
    },
    listener: {
      async accept(signal) {
        for (;;) {
          signal.throwIfAborted();
          const link = waiting.shift();
          if (link !== undefined) return link;
          await new Promise<void>((resolve, reject) => {
            const onAbort = () => reject(signal.reason);
            signal.addEventListener('abort', onAbort, { once: true });
            wake = () => {
              signal.removeEventListener('abort', onAbort);
              resolve();
            };
          });
        }
      },
      async close() {},
    },
    cut({ delivered = false } = {}) {
      const lost = new GodwitError('GODWIT_LINK_LOST', 'the link was cut');
      for (const queue of queues) queue.fail({ reader: lost, writer: lost }, delivered);
    },
    get openStreams() {
      return queues.filter((queue) => !queue.ended && !queue.failed).length;
    },
  };
}

/** Copies the bytes `from` to `to` of `payload` to their places in `into`; returns the total length of `into`. */
function fill(into: readonly Uint8Array[], payload: Uint8Array, from: number, to: number): number {
  let at = 0;
  for (const chunk of into) {
    const first = Math.max(from - at, 0);
    if (first < chunk.byteLength && at < to) {
      chunk.set(payload.subarray(at + first, Math.min(at + chunk.byteLength, to)), first);
    }
    at += chunk.byteLength;
  }
  return at;
}

function joined(chunks: readonly Uint8Array[] | undefined): Uint8Array | undefined {
  if (chunks === undefined) return undefined;
  const whole = new Uint8Array(chunks.reduce((sum, chunk) => sum + chunk.byteLength, 0));
  let at = 0;
  for (const chunk of chunks) {
    whole.set(chunk, at);
    at += chunk.byteLength;
  }
  return whole;
}

import { GodwitError } from '../errors.js';
import type { Frame } from '../link/frame.js';
import type { FrameStream, ReceivedFrame } from '../link/frame-stream.js';
import type { IncomingLink, LinkConnector, LinkListener } from '../link/migration-link.js';

interface Parcel {
  readonly frame: Frame;
  readonly payload: Uint8Array | undefined;
}

/** One direction: a queue of copied frames that holds at most `capacity` before the writer waits. */
class Direction {
  readonly #queue: Parcel[] = [];
  readonly #capacity: number;
  #ended = false;
  #failure: GodwitError | undefined;
  #reader: (() => void) | undefined;
  #writers: (() => void)[] = [];

  constructor(capacity: number) {
    this.#capacity = capacity;
  }

  async put(parcel: Parcel): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#ended) throw new GodwitError('GODWIT_LINK_LOST', 'written after close');
    this.#queue.push(parcel);
    this.#wakeReader();
    while (this.#queue.length > this.#capacity && this.#failure === undefined) {
      await new Promise<void>((resolve) => this.#writers.push(resolve));
    }
    if (this.#failure !== undefined) throw this.#failure;
  }

  async take(): Promise<Parcel | null> {
    for (;;) {
      if (this.#failure !== undefined) throw this.#failure;
      const parcel = this.#queue.shift();
      if (parcel !== undefined) {
        const writers = this.#writers;
        this.#writers = [];
        for (const wake of writers) wake();
        return parcel;
      }
      if (this.#ended) return null;
      await new Promise<void>((resolve) => {
        this.#reader = resolve;
      });
    }
  }

  end(): void {
    this.#ended = true;
    this.#wakeReader();
  }

  fail(error: GodwitError): void {
    this.#failure ??= error;
    this.#wakeReader();
    for (const wake of this.#writers.splice(0)) wake();
  }

  #wakeReader(): void {
    const wake = this.#reader;
    this.#reader = undefined;
    wake?.();
  }
}

/** What a test may do to a frame on its way: return it (changed), or `undefined` to lose it. */
export type FrameTap = (frame: Frame, payload: Uint8Array | undefined) => { frame: Frame; payload: Uint8Array | undefined } | undefined;

class MemoryFrameStream implements FrameStream {
  bytesWritten = 0;
  bytesRead = 0;
  readonly #out: Direction;
  readonly #in: Direction;
  readonly #tap: FrameTap | undefined;
  #payload: Uint8Array | undefined;

  constructor(out: Direction, incoming: Direction, tap: FrameTap | undefined) {
    this.#out = out;
    this.#in = incoming;
    this.#tap = tap;
  }

  async write(frame: Frame, payload?: readonly Uint8Array[]): Promise<void> {
    let copy: Uint8Array | undefined;
    if (payload !== undefined) {
      copy = new Uint8Array(payload.reduce((sum, chunk) => sum + chunk.byteLength, 0));
      let at = 0;
      for (const chunk of payload) {
        copy.set(chunk, at);
        at += chunk.byteLength;
      }
    }
    this.bytesWritten += 16 + (copy?.byteLength ?? 0);
    const parcel = { frame: structuredClone(frame), payload: copy };
    const tapped = this.#tap === undefined ? parcel : this.#tap(parcel.frame, parcel.payload);
    if (tapped !== undefined) await this.#out.put(tapped);
  }

  async read(): Promise<ReceivedFrame | null> {
    if (this.#payload !== undefined) throw new GodwitError('GODWIT_INVALID_STATE', 'the payload of the last frame was not read');
    const parcel = await this.#in.take();
    if (parcel === null) return null;
    this.bytesRead += 16;
    this.#payload = parcel.payload !== undefined && parcel.payload.byteLength > 0 ? parcel.payload : undefined;
    return { frame: parcel.frame, payloadBytes: parcel.payload?.byteLength ?? 0 };
  }

  async readPayload(into: readonly Uint8Array[]): Promise<void> {
    const payload = this.#payload;
    this.#payload = undefined;
    let at = 0;
    for (const chunk of into) {
      chunk.set((payload as Uint8Array).subarray(at, at + chunk.byteLength));
      at += chunk.byteLength;
    }
    this.bytesRead += at;
  }

  async skipPayload(): Promise<void> {
    this.#payload = undefined;
  }

  async close(): Promise<void> {
    this.#out.end();
  }

  abort(reason: GodwitError): void {
    this.#in.fail(reason);
    this.#out.fail(new GodwitError('GODWIT_LINK_LOST', 'the peer dropped the link'));
  }
}

export interface MemoryLinkOptions {
  /** Frames that a direction holds before its writer waits. Default 4. */
  readonly capacity?: number;
  /** Sees, changes or loses what the source sends. */
  readonly fromSource?: FrameTap;
  readonly fromDestination?: FrameTap;
}

/**
 * A connector and a listener in one process that carry frames without turning them into bytes: for tests of the engine,
 * and of what embedders build on it. Payloads are copied when they are written.
 */
export function memoryLink(options: MemoryLinkOptions = {}): { readonly connector: LinkConnector; readonly listener: LinkListener } {
  const waiting: IncomingLink[] = [];
  let wake: (() => void) | undefined;
  const pair = (): [MemoryFrameStream, MemoryFrameStream] => {
    const forth = new Direction(options.capacity ?? 4);
    const back = new Direction(options.capacity ?? 4);
    return [new MemoryFrameStream(forth, back, options.fromSource), new MemoryFrameStream(back, forth, options.fromDestination)];
  };
  return {
    connector: {
      async connect({ pageChannels }) {
        const [control, theirControl] = pair();
        const pages = Array.from({ length: pageChannels }, pair);
        waiting.push({ control: theirControl, peer: 'memory', pageChannels: async () => pages.map(([, theirs]) => theirs) });
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
            wake = resolve;
            signal.addEventListener('abort', () => reject(signal.reason), { once: true });
          });
        }
      },
      async close() {},
    },
  };
}

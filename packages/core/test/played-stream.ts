import type { Frame, FrameStream, GodwitError, ReceivedFrame } from '@godwit/core';

/** What a read of a stream comes to: a frame, with or without a payload, the peer's close, or a failure. */
type Incoming = Frame | { readonly frame: Frame; readonly payloadBytes: number } | null | Error;

/** A stream whose other end, and whose carrier, the test plays. */
export class PlayedStream implements FrameStream {
  bytesWritten = 0;
  bytesRead = 0;
  /** Calls in their order: `write error`, `close`, `abort`. */
  readonly calls: string[] = [];
  readonly written: Frame[] = [];
  aborted: GodwitError | undefined;
  skipped = 0;
  reads = 0;
  /** Writes resolve with it. */
  taken: Promise<void> = Promise.resolve();
  /** `close` resolves with it, or when the peer has ended its direction. */
  closed: Promise<void> = new Promise(() => {});
  settled?: () => Promise<void>;
  readonly #coming: Incoming[] = [];
  readonly #ended = held();
  #wake: (() => void) | undefined;

  /** The frames of one type that were written. */
  of<T extends Frame['type']>(type: T): Extract<Frame, { type: T }>[] {
    return this.written.filter((frame): frame is Extract<Frame, { type: T }> => frame.type === type);
  }

  /** Brings these in, in order. */
  arrive(...incoming: readonly Incoming[]): void {
    this.#coming.push(...incoming);
    if (incoming.some((one) => one === null || one instanceof Error)) this.#ended.release();
    this.#wake?.();
  }

  async write(frame: Frame): Promise<void> {
    this.calls.push(`write ${frame.type}`);
    this.written.push(frame);
    await this.taken;
  }

  async read(): Promise<ReceivedFrame | null> {
    this.reads++;
    while (this.#coming.length === 0) {
      if (this.aborted !== undefined) throw this.aborted;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const next = this.#coming.shift() as Incoming;
    if (next instanceof Error) throw next;
    return next === null || !('type' in next) ? next : { frame: next, payloadBytes: 0 };
  }

  async readPayload(): Promise<void> {}

  async skipPayload(): Promise<void> {
    this.skipped++;
  }

  async close(): Promise<void> {
    this.calls.push('close');
    await Promise.race([this.closed, this.#ended.promise]);
  }

  abort(reason: GodwitError): void {
    this.calls.push('abort');
    this.aborted ??= reason;
    this.#ended.release();
    this.#wake?.();
  }
}

/** A promise that the test settles. */
export interface Held {
  readonly promise: Promise<void>;
  release(): void;
}

export function held(): Held {
  let release: () => void = () => {};
  const promise = new Promise<void>((resolve) => {
    release = resolve;
  });
  return { promise, release: () => release() };
}

/** What a promise has come to so far. */
export function watch(promise: Promise<unknown>): { readonly outcome: unknown; readonly state: string } {
  const seen: { outcome: unknown; state: string } = { outcome: undefined, state: 'pending' };
  promise.then(
    (value) => Object.assign(seen, { outcome: value, state: 'resolved' }),
    (error: unknown) => Object.assign(seen, { outcome: error, state: 'rejected' }),
  );
  return seen;
}

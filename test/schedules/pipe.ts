import { type Clock, type Frame, GodwitError } from '@godwit/core';

/** A frame in flight. */
export interface Parcel {
  frame: Frame;
  payload: Uint8Array | undefined;
  /** Whether bytes of it were changed. The reader notices: the checksum differs, or it is no frame. */
  broken: boolean;
}

/** The error of a failed direction, as each end sees it. */
export interface Failure {
  readonly reader: GodwitError;
  readonly writer: GodwitError;
}

export const LOST: Failure = {
  reader: new GodwitError('GODWIT_LINK_LOST', 'the link was cut'),
  writer: new GodwitError('GODWIT_LINK_LOST', 'the link was cut'),
};

type Item = Parcel | 'end' | Failure;

export interface PipePlan {
  readonly capacity: number;
  readonly resetLosesUnread: boolean;
}

interface Waiting {
  readonly parcel: () => Parcel | undefined;
  readonly resolve: () => void;
  readonly reject: (error: GodwitError) => void;
}

/**
 * One direction of a network path. Frames of all its streams leave one after the other and arrive after the latency. It can be slowed
 * down, or stalled for a time.
 */
export class Wire {
  readonly #clock: Clock;
  readonly #bytesPerSecond: number;
  readonly #latencyMs: number;
  /** The factor by which the wire is slower than its rate. */
  slowness = 1;
  /** Before this time no frame leaves or arrives. */
  stalledUntil = 0;
  #busyUntil = 0;
  readonly #arrivals: { readonly at: number; readonly pipe: Pipe; readonly item: Item }[] = [];
  #delivering = false;

  constructor(clock: Clock, bytesPerSecond: number, latencyMs: number) {
    this.#clock = clock;
    this.#bytesPerSecond = bytesPerSecond;
    this.#latencyMs = latencyMs;
  }

  send(pipe: Pipe, item: Item, bytes: number): void {
    const now = this.#clock.now();
    // A link without a rate is slowed down from 20 MB/s.
    const rate = this.#bytesPerSecond > 0 ? this.#bytesPerSecond : this.slowness > 1 ? 20e6 : Number.POSITIVE_INFINITY;
    this.#busyUntil = Math.max(now, this.#busyUntil, this.stalledUntil) + (bytes / rate) * 1000 * this.slowness;
    const at = this.#busyUntil + this.#latencyMs;
    if (at === now && this.#arrivals.length === 0) {
      pipe.arrive(item);
      return;
    }
    this.#arrivals.push({ at, pipe, item });
    if (!this.#delivering) void this.#deliver();
  }

  async #deliver(): Promise<void> {
    this.#delivering = true;
    for (;;) {
      const [first] = this.#arrivals;
      if (first === undefined) break;
      const wait = Math.max(first.at, this.stalledUntil) - this.#clock.now();
      if (wait > 0) {
        await this.#clock.sleep(wait);
        continue;
      }
      this.#arrivals.shift();
      first.pipe.arrive(first.item);
    }
    this.#delivering = false;
  }
}

/** One direction of a stream: keeps frames in order. The writer waits while `capacity` frames are in flight or unread. */
export class Pipe {
  readonly #wire: Wire;
  readonly #onArrival: (parcel: Parcel) => boolean;
  #capacity: number;
  /** Number of frames in flight or unread. */
  #outstanding = 0;
  readonly #unread: Parcel[] = [];
  readonly #waiting: Waiting[] = [];
  #reader: (() => void) | undefined;
  #failure: Failure | undefined;
  /** The error that writing fails with. The writer may get it before the reader does: a reset arrives after the frames in flight. */
  #writerError: GodwitError | undefined;
  /** Whether unread frames can still be read after a failure. */
  #readable = true;
  readonly #resetLosesUnread: boolean;
  #ending = false;
  #ended = false;
  /** Resolves when no further frame can arrive. */
  readonly over: Promise<void>;
  #markOver: () => void = () => {};

  /** `onArrival` sees each parcel that arrives and may change it. It returns false to lose it. */
  constructor(wire: Wire, plan: PipePlan, onArrival: (parcel: Parcel) => boolean) {
    this.#wire = wire;
    this.#capacity = plan.capacity;
    this.#resetLosesUnread = plan.resetLosesUnread;
    this.#onArrival = onArrival;
    this.over = new Promise((resolve) => {
      this.#markOver = resolve;
    });
  }

  /** Whether the direction was ended by the writer or has failed. */
  get done(): boolean {
    return this.#ending || this.#failure !== undefined;
  }

  /** Whether the writer has ended the direction. */
  get ending(): boolean {
    return this.#ending;
  }

  /** Whether the reader has read the end. */
  get ended(): boolean {
    return this.#ended;
  }

  /** Sends what `parcel` returns once there is room; resolves then. `undefined` is lost in flight. */
  write(parcel: () => Parcel | undefined): Promise<void> {
    if (this.#writerError !== undefined) return Promise.reject(this.#writerError);
    if (this.#ending) return Promise.reject(new GodwitError('GODWIT_INVALID_STATE', 'written after close'));
    if (this.#waiting.length === 0 && this.#outstanding < this.#capacity) {
      this.#take(parcel);
      return Promise.resolve();
    }
    return new Promise((resolve, reject) => this.#waiting.push({ parcel, resolve, reject }));
  }

  #take(make: () => Parcel | undefined): void {
    this.#outstanding++;
    const parcel = make();
    if (parcel === undefined) this.#outstanding--;
    else if (this.#failure === undefined) this.#wire.send(this, parcel, 16 + (parcel.payload?.byteLength ?? 0));
  }

  /** Takes a parcel or the end that the wire delivers. */
  arrive(item: Item): void {
    if (item === 'end') {
      this.#ended = true;
      this.#markOver();
    } else if ('reader' in item) {
      this.fail(item, !this.#resetLosesUnread);
    } else if (this.#failure !== undefined) {
      return;
    } else if (this.#onArrival(item)) {
      // A fault triggered by this arrival may have cut the link.
      if (this.#failure === undefined) this.#unread.push(item);
    } else {
      this.#outstanding--;
      this.#pump();
    }
    this.#wakeReader();
  }

  /** Resolves with the next parcel, or `null` at the end. */
  async read(): Promise<Parcel | null> {
    for (;;) {
      if (this.#failure !== undefined && !this.#readable) throw this.#failure.reader;
      const parcel = this.#unread.shift();
      if (parcel !== undefined) {
        this.#outstanding--;
        this.#pump();
        return parcel;
      }
      if (this.#failure !== undefined) throw this.#failure.reader;
      if (this.#ended) return null;
      await new Promise<void>((resolve) => {
        this.#reader = resolve;
      });
    }
  }

  /** Throws if the direction has failed and its unread frames are lost. */
  throwIfCut(): void {
    if (this.#failure !== undefined && !this.#readable) throw this.#failure.reader;
  }

  /** Removes the capacity: the writer does not wait for the reader any more. */
  unbounded(): void {
    this.#capacity = Number.POSITIVE_INFINITY;
    this.#pump();
  }

  /** Ends the direction after the frames written so far; resolves when the wire has all of them. */
  async end(): Promise<void> {
    if (this.#waiting.length > 0) {
      await new Promise<void>((resolve) => {
        this.#waiting.push({ parcel: () => undefined, resolve, reject: () => resolve() });
      });
    }
    if (this.#ending || this.#writerError !== undefined) return;
    this.#ending = true;
    this.#wire.send(this, 'end', 0);
  }

  /** Fails the writer at once, and the reader after the frames in flight have arrived. */
  failBehind(failure: Failure): void {
    if (this.#writerError !== undefined || this.#ended) return;
    this.#rejectWriters(failure.writer);
    this.#ending = true;
    this.#wire.send(this, failure, 0);
  }

  fail(failure: Failure, readable = false): void {
    if (this.#failure !== undefined) return;
    this.#failure = failure;
    this.#readable = readable;
    this.#markOver();
    this.#rejectWriters(failure.writer);
    this.#wakeReader();
  }

  #rejectWriters(error: GodwitError): void {
    this.#writerError ??= error;
    for (const { reject } of this.#waiting.splice(0)) reject(error);
  }

  #pump(): void {
    while (this.#waiting.length > 0 && this.#outstanding < this.#capacity && this.#failure === undefined) {
      const next = this.#waiting.shift() as Waiting;
      this.#take(next.parcel);
      next.resolve();
    }
  }

  #wakeReader(): void {
    const wake = this.#reader;
    this.#reader = undefined;
    wake?.();
  }
}

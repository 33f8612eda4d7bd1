import { type Clock, type Frame, GodwitError } from '@godwit/core';

/** A frame on its way. */
export interface Parcel {
  frame: Frame;
  payload: Uint8Array | undefined;
  /** Bytes of it were changed: its reader notices, by a checksum or because it is no frame. */
  broken: boolean;
}

/** Why a direction failed, as each end of it sees it. */
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
 * One direction of a network path: frames of all its streams leave one after the other, and arrive a latency later. It can be
 * slow or stand still for a time.
 */
export class Wire {
  readonly #clock: Clock;
  readonly #bytesPerSecond: number;
  readonly #latencyMs: number;
  /** How many times slower than it should be. */
  slowness = 1;
  /** Nothing leaves or arrives before. */
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
    // A link without a rate is slowed down as if it had this one.
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

/** One direction of a stream: frames in order, and at most `capacity` of them on their way or unread before the writer waits. */
export class Pipe {
  readonly #wire: Wire;
  readonly #onArrival: (parcel: Parcel) => boolean;
  #capacity: number;
  /** Frames that are on their way or unread. */
  #outstanding = 0;
  readonly #unread: Parcel[] = [];
  readonly #waiting: Waiting[] = [];
  #reader: (() => void) | undefined;
  #failure: Failure | undefined;
  /** Why the writer is told that it failed: before its reader, where a reset is still on its way. */
  #writerError: GodwitError | undefined;
  /** What is unread may still be read. */
  #readable = true;
  readonly #resetLosesUnread: boolean;
  #ending = false;
  #ended = false;
  /** Resolves when nothing more comes. */
  readonly over: Promise<void>;
  #markOver: () => void = () => {};

  /** `onArrival` may lose or change a parcel; true: it has arrived. */
  constructor(wire: Wire, plan: PipePlan, onArrival: (parcel: Parcel) => boolean) {
    this.#wire = wire;
    this.#capacity = plan.capacity;
    this.#resetLosesUnread = plan.resetLosesUnread;
    this.#onArrival = onArrival;
    this.over = new Promise((resolve) => {
      this.#markOver = resolve;
    });
  }

  /** Nothing more is written, or comes. */
  get done(): boolean {
    return this.#ending || this.#failure !== undefined;
  }

  /** The writer has ended it. */
  get ending(): boolean {
    return this.#ending;
  }

  /** The writer has ended it, and the reader has seen that. */
  get ended(): boolean {
    return this.#ended;
  }

  /** Resolves when the carrier has taken what `parcel` makes at that moment; `undefined` is lost on the way. */
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

  /** Called by the wire. */
  arrive(item: Item): void {
    if (item === 'end') {
      this.#ended = true;
      this.#markOver();
    } else if ('reader' in item) {
      this.fail(item, !this.#resetLosesUnread);
    } else if (this.#failure !== undefined) {
      return;
    } else if (this.#onArrival(item)) {
      // Its arrival may have been the moment at which the link was cut.
      if (this.#failure === undefined) this.#unread.push(item);
    } else {
      this.#outstanding--;
      this.#pump();
    }
    this.#wakeReader();
  }

  /** The next parcel, `null` at the end. */
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

  /** What is being read now comes no more. */
  throwIfCut(): void {
    if (this.#failure !== undefined && !this.#readable) throw this.#failure.reader;
  }

  /** The reader takes whatever comes: writers do not wait for it any more. */
  unbounded(): void {
    this.#capacity = Number.POSITIVE_INFINITY;
    this.#pump();
  }

  /** Ends the direction after everything that was written; resolves when the carrier has all of it. */
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

  /** Fails at the writer's end at once, and at the reader's when all that is on its way has arrived. */
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

import { GodwitError } from '../errors.js';
import type { Frame } from '../protocol/frame.js';

/** A frame in flight, with its payload. */
export interface Parcel {
  readonly frame: Frame;
  readonly payload: Uint8Array | undefined;
}

/** The errors that the two ends of a failed direction get. */
export interface QueueFailure {
  readonly reader: GodwitError;
  readonly writer: GodwitError;
}

/**
 * One direction of a stream in memory: frames in order, at most `capacity` of which are in flight before the writer
 * waits.
 */
export class FrameQueue<Item = Parcel> {
  readonly #queue: Item[] = [];
  /** Resolves when the direction has ended or failed. */
  readonly over: Promise<void>;
  #markOver: () => void = () => {};
  #capacity: number;
  #ended = false;
  #failure: QueueFailure | undefined;
  /** Whether frames that were in flight when the direction failed still arrive. */
  #delivered = false;
  #reader: (() => void) | undefined;
  #writers: (() => void)[] = [];

  constructor(capacity: number) {
    this.#capacity = capacity;
    this.over = new Promise((resolve) => {
      this.#markOver = resolve;
    });
  }

  get ended(): boolean {
    return this.#ended;
  }

  get failed(): boolean {
    return this.#failure !== undefined;
  }

  async put(parcel: Item): Promise<void> {
    this.#checkWriter();
    if (this.#ended) throw new GodwitError('GODWIT_INVALID_STATE', 'written after close');
    this.#queue.push(parcel);
    this.#wakeReader();
    while (this.#queue.length > this.#capacity && this.#failure === undefined) {
      await new Promise<void>((resolve) => this.#writers.push(resolve));
    }
    this.#checkWriter();
  }

  async take(): Promise<Item | null> {
    for (;;) {
      if (!this.#delivered) this.throwIfFailed();
      const parcel = this.#queue.shift();
      if (parcel !== undefined) {
        this.#wakeWriters();
        return parcel;
      }
      this.throwIfFailed();
      if (this.#ended) return null;
      await new Promise<void>((resolve) => {
        this.#reader = resolve;
      });
    }
  }

  throwIfFailed(): void {
    if (this.#failure !== undefined && !(this.#delivered && this.#queue.length > 0)) throw this.#failure.reader;
  }

  #checkWriter(): void {
    if (this.#failure !== undefined) throw this.#failure.writer;
  }

  /** Removes the capacity: the reader is closing, and writers must not wait for it. */
  unbounded(): void {
    this.#capacity = Number.POSITIVE_INFINITY;
    this.#wakeWriters();
  }

  end(): void {
    this.#ended = true;
    this.#markOver();
    this.#wakeReader();
  }

  fail(failure: QueueFailure, delivered = false): void {
    if (this.#failure !== undefined) return;
    this.#failure = failure;
    this.#delivered = delivered;
    this.#markOver();
    this.#wakeReader();
    this.#wakeWriters();
  }

  #wakeReader(): void {
    const wake = this.#reader;
    this.#reader = undefined;
    wake?.();
  }

  #wakeWriters(): void {
    for (const wake of this.#writers.splice(0)) wake();
  }
}

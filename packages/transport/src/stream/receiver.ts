import { GodwitError } from '@godwit/core';

/** The reading half of a stream over a Node `Duplex`. */
export interface Receiver {
  read(into: Uint8Array, wanted: number): Promise<number>;
  /** Bytes that the pending `read` has received; 0 without a pending one. */
  readonly pendingBytes: number;
  /** Called when the peer has ended its direction. */
  end(): void;
  /**
   * Called when the carrier broke: bytes that have arrived can still be read, then reads fail. The memory of a pending
   * read is not used any more.
   */
  fail(error: GodwitError): void;
  /** Called when this side has dropped the stream: nothing can be read any more. */
  abort(error: GodwitError): void;
  /**
   * Gives up the stream and returns the bytes that were read from the carrier and not handed out yet. Missing where
   * these are not known. A pending read never settles.
   */
  detach?(): Uint8Array;
}

/** One pending `read`: its memory, and how much of it is filled. */
export class PendingRead {
  readonly promise: Promise<number>;
  filled = 0;
  resolve!: (count: number) => void;
  reject!: (error: GodwitError) => void;

  constructor(
    readonly into: Uint8Array,
    readonly wanted: number,
  ) {
    this.promise = new Promise((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
  }

  static check(into: Uint8Array, pending: PendingRead | undefined): void {
    if (pending !== undefined)
      throw new GodwitError('GODWIT_INVALID_STATE', 'a read is pending already; one at a time');
    if (into.length === 0) throw new GodwitError('GODWIT_INVALID_ARGUMENT', 'cannot read into an empty buffer');
  }

  get missing(): number {
    return this.into.length - this.filled;
  }

  get satisfied(): boolean {
    return this.filled >= Math.min(this.wanted, this.into.length);
  }

  /** Copies as many of `bytes` as fit; returns their number. */
  take(bytes: Uint8Array): number {
    const count = Math.min(bytes.length, this.missing);
    this.into.set(count === bytes.length ? bytes : bytes.subarray(0, count), this.filled);
    this.filled += count;
    return count;
  }
}

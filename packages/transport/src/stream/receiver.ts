import { GodwitError } from '@godwit/core';

/** The reading half of a stream over a Node `Duplex`. */
export interface Receiver {
  read(into: Uint8Array, wanted: number): Promise<number>;
  /** Bytes that the pending `read` has got; 0 without one. */
  readonly pendingBytes: number;
  /** The peer has ended its direction. */
  end(): void;
  /** The carrier broke: what has arrived can still be read, then reads fail. The memory of a peer read is let go. */
  fail(error: GodwitError): void;
  /** The stream was dropped by our side: nothing can be read any more. */
  abort(error: GodwitError): void;
  /**
   * Gives up: what was read from the carrier and not handed out yet. Missing where that cannot be told. a peer read
   * never settles.
   */
  detach?(): Uint8Array;
}

/** One pending `read`: where the bytes go, and how far it is. */
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

  /** Copies as much of `bytes` as fits; returns how much. */
  take(bytes: Uint8Array): number {
    const count = Math.min(bytes.length, this.missing);
    this.into.set(count === bytes.length ? bytes : bytes.subarray(0, count), this.filled);
    this.filled += count;
    return count;
  }
}

/** A piece of device state that has arrived. */
interface Piece {
  readonly bytes: Uint8Array;
  /** The sequence of a piece that came while the guest ran; -1 for a piece of a stop-and-copy. */
  readonly sequence: number;
}

/** The pieces of one device's state, as the async iterable that is passed to `load`. */
export class StateQueue implements AsyncIterable<Uint8Array> {
  readonly #pieces: Piece[] = [];
  readonly #onTaken: (sequence: number, bytes: number) => void;
  #ended = false;
  #failure: { readonly error: unknown } | undefined;
  #wake: (() => void) | undefined;
  /** Bytes that `load` has not taken. */
  pendingBytes = 0;

  /** `onTaken` is called for each piece that `load` has taken, with its sequence and bytes. */
  constructor(onTaken: (sequence: number, bytes: number) => void) {
    this.#onTaken = onTaken;
  }

  push(bytes: Uint8Array, sequence: number): void {
    this.#pieces.push({ bytes, sequence });
    this.pendingBytes += bytes.byteLength;
    this.#notify();
  }

  end(): void {
    this.#ended = true;
    this.#notify();
  }

  fail(error: unknown): void {
    this.#failure ??= { error };
    this.#notify();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array> {
    for (;;) {
      if (this.#failure !== undefined) throw this.#failure.error;
      const piece = this.#pieces[0];
      if (piece !== undefined) {
        if (piece.bytes.byteLength > 0) yield piece.bytes;
        // `load` has asked for the next piece, so that it is done with this one.
        this.#pieces.shift();
        this.pendingBytes -= piece.bytes.byteLength;
        // A piece that was voided while `load` worked on it is not reported as loaded.
        if (this.#failure === undefined) this.#onTaken(piece.sequence, piece.bytes.byteLength);
      } else if (this.#ended) {
        return;
      } else {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    }
  }

  #notify(): void {
    const wake = this.#wake;
    this.#wake = undefined;
    wake?.();
  }
}

/** A piece of device state that has arrived. */
interface Piece {
  readonly bytes: Uint8Array;
  /** Of the pieces that come while the guest runs; -1 in a stop-and-copy. */
  readonly sequence: number;
}

/** Pieces of one device's state, handed to `load` as they come. */
export class StateQueue implements AsyncIterable<Uint8Array> {
  readonly #pieces: Piece[] = [];
  readonly #onTaken: (sequence: number, bytes: number) => void;
  #ended = false;
  #failure: { readonly error: unknown } | undefined;
  #wake: (() => void) | undefined;
  /** Bytes that wait to be taken. */
  pendingBytes = 0;

  /** `onTaken` hears of each piece that `load` is done with. */
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
        // Asked for the next one: this one is loaded.
        this.#pieces.shift();
        this.pendingBytes -= piece.bytes.byteLength;
        // State that was voided while `load` worked on it is not loaded.
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

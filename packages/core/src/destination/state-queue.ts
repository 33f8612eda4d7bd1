/** A piece of device state, as it is given to `load`. */
export interface QueuedPiece {
  readonly bytes: Uint8Array;
  /** The stop-and-copy that the piece belongs to; 0 for a piece that came while the guest ran. */
  readonly attempt: number;
  readonly sequence: number;
}

const TAKEN: QueuedPiece = { bytes: new Uint8Array(), attempt: 0, sequence: 0 };

/** The pieces of one device's state, as the async iterable that is passed to `load`. */
export class StateQueue implements AsyncIterable<Uint8Array> {
  #pieces: QueuedPiece[] = [];
  /**
   * Index of the first piece that `load` has not taken. The array is not shifted for each piece, which would move all
   * of it.
   */
  #first = 0;
  readonly #onTaken: (piece: QueuedPiece) => void;
  #ended = false;
  #failure: { readonly error: unknown } | undefined;
  #wake: (() => void) | undefined;
  /** Bytes that `load` has not taken. */
  pendingBytes = 0;

  /** `onTaken` is called for each piece that `load` has taken. */
  constructor(onTaken: (piece: QueuedPiece) => void) {
    this.#onTaken = onTaken;
  }

  /** Whether `end` was called: nothing follows. */
  get ended(): boolean {
    return this.#ended;
  }

  /** Number of the pieces that `load` has not taken. */
  get pendingPieces(): number {
    return this.#pieces.length - this.#first;
  }

  push(piece: QueuedPiece): void {
    this.#pieces.push(piece);
    this.pendingBytes += piece.bytes.byteLength;
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
      const piece = this.#pieces[this.#first];
      if (piece !== undefined) {
        if (piece.bytes.byteLength > 0) yield piece.bytes;
        // `load` asks for the next piece when it is done with this one.
        this.#shift();
        this.pendingBytes -= piece.bytes.byteLength;
        // A piece that was voided while `load` worked on it is not reported as loaded.
        if (this.#failure === undefined) this.#onTaken(piece);
      } else if (this.#ended) {
        return;
      } else {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    }
  }

  /** Forgets the first piece, so that its bytes are free at once. The array is cut once half of it is empty. */
  #shift(): void {
    this.#pieces[this.#first++] = TAKEN;
    if (this.#first * 2 <= this.#pieces.length) return;
    this.#pieces = this.#pieces.slice(this.#first);
    this.#first = 0;
  }

  #notify(): void {
    const wake = this.#wake;
    this.#wake = undefined;
    wake?.();
  }
}

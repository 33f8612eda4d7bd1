/** A piece of device state that has arrived. */
export interface Piece {
  readonly bytes: Uint8Array;
  readonly sequence: number;
  readonly last: boolean;
}

/** Puts the pieces of one device into their order: on several streams a piece may overtake the pieces before it. */
export class PieceOrder {
  /** Pieces that have come before an earlier piece, by sequence. */
  readonly #ahead = new Map<number, Piece>();
  /** The sequence of the first piece that has not come. */
  next = 0;
  /** Bytes of the pieces that wait for a piece before them. */
  aheadBytes = 0;

  /** Number of the pieces that wait for a piece before them. */
  get aheadCount(): number {
    return this.#ahead.size;
  }

  /** Whether the piece with this sequence has come. */
  has(sequence: number): boolean {
    return sequence < this.next || this.#ahead.has(sequence);
  }

  /** Takes a piece that has not come before. Returns the pieces that now continue the order without a gap. */
  put(piece: Piece): readonly Piece[] {
    if (piece.sequence !== this.next) {
      this.#ahead.set(piece.sequence, piece);
      this.aheadBytes += piece.bytes.byteLength;
      return [];
    }
    const inOrder = [piece];
    this.next++;
    for (let following = this.#ahead.get(this.next); following !== undefined; following = this.#ahead.get(this.next)) {
      this.#ahead.delete(this.next++);
      this.aheadBytes -= following.bytes.byteLength;
      inOrder.push(following);
    }
    return inOrder;
  }

  /**
   * Forgets the pieces that wait for a piece before them, and returns their bytes: their connection is lost, and the source sends them
   * again.
   */
  forgetAhead(): number {
    const bytes = this.aheadBytes;
    this.#ahead.clear();
    this.aheadBytes = 0;
    return bytes;
  }
}

/** A stream of state as a destination gets it: piece by piece, until it ends or is given up. */
export class PushedStream implements AsyncIterable<Uint8Array> {
  readonly #pieces: Uint8Array[] = [];
  #ended: 'no' | 'whole' | Error = 'no';
  #wake: () => void = () => {};
  #waiting = false;

  /** Resolves when everything that was pushed has been taken, and more is waited for. */
  async taken(): Promise<void> {
    while (!this.#waiting || this.#pieces.length > 0) await new Promise(setImmediate);
  }

  push(piece: Uint8Array): void {
    this.#pieces.push(Uint8Array.from(piece));
    this.#wake();
  }

  /** All that `source` yields. */
  async pushAll(source: AsyncIterable<Uint8Array>): Promise<void> {
    for await (const piece of source) this.push(piece);
  }

  end(): void {
    this.#ended = 'whole';
    this.#wake();
  }

  fail(error: Error): void {
    this.#ended = error;
    this.#wake();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array> {
    for (;;) {
      const piece = this.#pieces.shift();
      if (piece !== undefined) yield piece;
      else if (this.#ended === 'whole') return;
      else if (this.#ended !== 'no') throw this.#ended;
      else {
        this.#waiting = true;
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
        this.#waiting = false;
      }
    }
  }
}

import { once } from 'node:events';
import type { Writable } from 'node:stream';

/** Whoever read our output has gone (`godwit inspect FILE | head`). */
export class OutputClosed extends Error {}

/** Writes lines and waits for whoever reads them, so that nothing piles up here. */
export class LineOutput {
  readonly #stream: Writable;
  #failure: Error | undefined;

  constructor(stream: Writable) {
    this.#stream = stream;
    stream.on('error', (error) => {
      this.#failure ??= error;
    });
  }

  /** Fails with `OutputClosed` when nobody reads any more, and with the stream's error otherwise. */
  async line(text: string): Promise<void> {
    this.#check();
    if (this.#stream.write(`${text}\n`)) return;
    try {
      await once(this.#stream, 'drain');
    } catch (error) {
      this.#failure ??= error as Error;
    }
    this.#check();
  }

  #check(): void {
    const failure = this.#failure as NodeJS.ErrnoException | undefined;
    if (failure === undefined) return;
    if (failure.code === 'EPIPE') throw new OutputClosed('nobody reads the output', { cause: failure });
    throw failure;
  }
}

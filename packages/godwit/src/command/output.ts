import { once } from 'node:events';
import type { Writable } from 'node:stream';

/** The reader of the output has closed it (`godwit inspect FILE | head`). */
export class OutputClosed extends Error {}

/** Writes lines and waits for their reader, so that they do not pile up in memory. */
export class LineOutput {
  readonly #stream: Writable;
  #failure: Error | undefined;

  constructor(stream: Writable) {
    this.#stream = stream;
    stream.on('error', (error) => {
      this.#failure ??= error;
    });
  }

  /** Fails with `OutputClosed` when the reader has closed the output, and otherwise with the stream's error. */
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

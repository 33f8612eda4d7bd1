import type { Readable } from 'node:stream';

/** What is kept of a child's standard error, in bytes; the end of it says why it failed. */
const KEPT_BYTES = 4096;

/** Reads a child's standard error, so that it never blocks, and keeps the end. */
export class LastWords {
  readonly #source: Readable;
  #kept = Buffer.alloc(0);
  #dropped = false;

  constructor(source: Readable) {
    this.#source = source;
    source.on('error', () => undefined);
    source.on('data', (chunk: Buffer) => {
      const all = Buffer.concat([this.#kept, chunk]);
      this.#dropped ||= all.length > KEPT_BYTES;
      this.#kept = all.subarray(-KEPT_BYTES);
    });
  }

  text(): string {
    const text = this.#kept.toString('utf8').trim();
    return this.#dropped ? `...${text}` : text;
  }

  /** Reading on keeps no process alive. */
  unref(): void {
    (this.#source as Readable & { unref?(): void }).unref?.();
  }

  close(): void {
    this.#source.destroy();
  }
}

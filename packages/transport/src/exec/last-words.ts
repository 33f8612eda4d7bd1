import type { Readable } from 'node:stream';

/** The number of bytes that are kept of the end of a child's standard error, which says why the child failed. */
const KEPT_BYTES = 4096;

/** Reads a child's standard error, so that the child never blocks on it, and keeps its end. */
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

  /** From now on the reading does not keep the process alive. */
  unref(): void {
    (this.#source as Readable & { unref?(): void }).unref?.();
  }

  close(): void {
    this.#source.destroy();
  }
}

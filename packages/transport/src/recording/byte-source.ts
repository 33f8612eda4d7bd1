/** Bytes in order, as `fs.createReadStream(path)` and `process.stdin` give them. */
export type ReadableBytes = AsyncIterable<Uint8Array>;

/** Chunks of bytes, read as a `ByteStream` is read. */
export class ByteSource {
  readonly peer = 'the recording';
  readonly #chunks: AsyncIterator<Uint8Array>;
  #chunk: Uint8Array = new Uint8Array(0);
  /** An exception of the iteration itself, which has nothing to do with the contents of the bytes. */
  failure: { readonly error: unknown } | undefined;

  constructor(bytes: ReadableBytes) {
    this.#chunks = bytes[Symbol.asyncIterator]();
  }

  async read(into: Uint8Array): Promise<number> {
    while (this.#chunk.length === 0) {
      const next = await this.#next();
      if (next.done === true) return 0;
      this.#chunk = next.value;
    }
    const count = Math.min(into.length, this.#chunk.length);
    into.set(this.#chunk.subarray(0, count));
    this.#chunk = this.#chunk.subarray(count);
    return count;
  }

  async close(): Promise<void> {
    await this.#chunks.return?.();
  }

  async #next(): Promise<IteratorResult<Uint8Array>> {
    try {
      return await this.#chunks.next();
    } catch (error) {
      this.failure = { error };
      throw error;
    }
  }
}

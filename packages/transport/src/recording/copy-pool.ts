/** Copies up to this size share buffers of this size: a batch of pages (1 MiB), and the state of most devices. */
const BUFFER_BYTES = 2 ** 20;
/** Copies of at most this size are not kept for reuse. */
const SMALL_BYTES = 64 * 1024;
const MOST_FREE = 16;

/** A stable copy of a payload, kept until the link and the file have both taken it. */
export interface PayloadCopy {
  readonly bytes: Uint8Array;
  /** Each of the `holders` calls this once. */
  release(): void;
}

/** Buffers for copies of payloads: fresh memory for every frame would take longer than the copy. */
export class CopyPool {
  readonly #free: Uint8Array[] = [];

  take(byteLength: number, holders: number): PayloadCopy {
    const pooled = byteLength > SMALL_BYTES && byteLength <= BUFFER_BYTES;
    const buffer = (pooled ? this.#free.pop() : undefined) ?? new Uint8Array(pooled ? BUFFER_BYTES : byteLength);
    let left = holders;
    return {
      bytes: buffer.length === byteLength ? buffer : buffer.subarray(0, byteLength),
      release: () => {
        left--;
        if (left === 0 && pooled && this.#free.length < MOST_FREE) this.#free.push(buffer);
      },
    };
  }
}

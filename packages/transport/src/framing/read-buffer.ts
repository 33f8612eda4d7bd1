/** The size of a stream's first buffer, in bytes: a peer that sends nothing takes no more memory. */
const FIRST_BUFFER = 16 * 1024;
/** The size to which the buffer grows once payloads are gathered in it, in bytes. */
const FULL_BUFFER = 256 * 1024;

/** The bytes of a stream that have come and were not handed out: `bytes` from `from` to `to`. */
export class ReadBuffer {
  bytes = new Uint8Array(FIRST_BUFFER);
  from = 0;
  to = 0;

  get length(): number {
    return this.to - this.from;
  }

  /** The free part of the buffer, for the bytes that come next. After `reserve` it holds at least what is missing. */
  get free(): Uint8Array {
    return this.bytes.subarray(this.to);
  }

  /** Makes room so that `count` bytes lie one after the other, those that are there included. */
  reserve(count: number): void {
    if (this.from === this.to) this.from = this.to = 0;
    if (this.from + count <= this.bytes.length) return;
    if (count > this.bytes.length) {
      const grown = new Uint8Array(count);
      grown.set(this.bytes.subarray(this.from, this.to));
      this.bytes = grown;
    } else {
      this.bytes.copyWithin(0, this.from, this.to);
    }
    this.to -= this.from;
    this.from = 0;
  }

  /** Empties the buffer, and makes it larger if many more bytes are to be gathered in it. */
  restart(expected: number): void {
    if (this.bytes.length < FULL_BUFFER && expected > this.bytes.length) this.bytes = new Uint8Array(FULL_BUFFER);
    this.from = this.to = 0;
  }

  /** The first bytes, at most `most`, without taking them off. */
  peek(most: number): Uint8Array {
    return this.bytes.subarray(this.from, Math.min(this.to, this.from + most));
  }

  /** The number of the 4 bytes at `at`, counted from the first byte. */
  uint32(at: number): number {
    const b = this.bytes;
    const i = this.from + at;
    return (
      (b[i] as number) * 2 ** 24 + ((b[i + 1] as number) << 16) + ((b[i + 2] as number) << 8) + (b[i + 3] as number)
    );
  }
}

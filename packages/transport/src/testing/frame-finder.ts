const PREFIX = 5;
const BIN32 = 0xc6;
const INT32 = 0xd2;

/**
 * Finds where frames start in a sequence of bytes that comes in pieces; see `docs/wire-format.md`, "Frames".
 *
 * @example
 * const finder = new FrameFinder();
 * const starts = finder.feed(bytes); // offsets at which frames start
 */
export class FrameFinder {
  /** The number of bytes of the current prefix that have come, and their value so far. */
  #prefix = 0;
  #length = 0;
  /** Bytes of a header or payload still to come. */
  #skip = 0;
  #afterHeader = false;
  #position = 0;
  #checksums = false;

  /** The positions, from the start of the sequence, of the frames that start in `bytes`. */
  feed(bytes: Uint8Array): number[] {
    const starts: number[] = [];
    for (let at = 0; at < bytes.length; ) {
      if (this.#skip > 0) {
        const count = Math.min(this.#skip, bytes.length - at);
        this.#skip -= count;
        at += count;
        continue;
      }
      const byte = bytes[at] as number;
      if (this.#prefix === 0) {
        // A checksum belongs to the bytes before it, which may be a header whose payload is still to come. The first one
        // is the mark: headers then come after the checksum of their length.
        if (byte === INT32) {
          if (this.#position + at === 0) this.#checksums = true;
          at++;
          this.#skip = 4;
          continue;
        }
        const isPayload = this.#afterHeader && byte === BIN32;
        if (!isPayload) starts.push(this.#position + at);
        this.#afterHeader = !isPayload;
        this.#length = 0;
      } else {
        this.#length = this.#length * 256 + byte;
      }
      at++;
      this.#prefix++;
      if (this.#prefix < PREFIX) continue;
      this.#prefix = 0;
      this.#skip = this.#length + (this.#checksums && this.#afterHeader ? 5 : 0);
    }
    this.#position += bytes.length;
    return starts;
  }
}

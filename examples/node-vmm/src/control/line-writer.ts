import { GodwitError } from '@godwit/core';
import type { ByteStream } from '@godwit/transport';

/** The number of unread bytes, beside those in the kernel's buffers, from which on a reader counts as hanging. */
const MOST_WAITING = 2 ** 20;

/**
 * Writes lines to a reader that may read slowly, or not at all. Of waiting lines with the same `replaces`, only the newest is kept. A
 * reader that leaves more than 1 MiB unread is cut off.
 */
export class LineWriter {
  readonly #stream: ByteStream;
  #waiting: { readonly bytes: Uint8Array; readonly replaces: string | undefined }[] = [];
  #waitingBytes = 0;
  #writing: Promise<void> | undefined;
  #closed = false;

  constructor(stream: ByteStream) {
    this.#stream = stream;
  }

  /** Writes a line. Never waits and never fails: a peer that is gone is noticed where its own lines are read. */
  line(value: unknown, replaces?: string): void {
    if (this.#closed) return;
    if (replaces !== undefined) {
      this.#waiting = this.#waiting.filter((one) => {
        if (one.replaces !== replaces) return true;
        this.#waitingBytes -= one.bytes.length;
        return false;
      });
    }
    const bytes = Buffer.from(`${JSON.stringify(value)}\n`);
    this.#waiting.push({ bytes, replaces });
    this.#waitingBytes += bytes.length;
    if (this.#waitingBytes > MOST_WAITING) {
      const message = `the client has left ${this.#waitingBytes} bytes unread: it does not read its answers`;
      this.cut(new GodwitError('GODWIT_LIMIT_EXCEEDED', message));
      return;
    }
    this.#writing ??= this.#write();
  }

  /** Resolves when every line is written; if the reader does not read, only at `cut`. No further lines are accepted. */
  async end(): Promise<void> {
    this.#closed = true;
    await this.#writing;
    await this.#stream.close();
  }

  /** Drops the stream and all waiting lines. */
  cut(reason: GodwitError): void {
    this.#closed = true;
    this.#waiting = [];
    this.#waitingBytes = 0;
    this.#stream.abort(reason);
  }

  async #write(): Promise<void> {
    try {
      for (let next = this.#waiting.shift(); next !== undefined; next = this.#waiting.shift()) {
        this.#waitingBytes -= next.bytes.length;
        await this.#stream.write([next.bytes]);
      }
    } catch {
      this.#waiting = [];
      this.#waitingBytes = 0;
    }
    this.#writing = undefined;
  }
}

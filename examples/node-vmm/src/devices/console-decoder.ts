import type { ConsoleRing } from './console-ring.js';

/** Decodes the console text of a ring; a character of several bytes may come in two pieces. */
export class ConsoleDecoder {
  readonly #ring: ConsoleRing;
  readonly #decoder = new TextDecoder();

  constructor(ring: ConsoleRing) {
    this.#ring = ring;
  }

  /** All text since the last call, or the empty string. */
  take(): string {
    const bytes = this.#ring.take();
    return bytes === undefined ? '' : this.#decoder.decode(bytes, { stream: true });
  }
}

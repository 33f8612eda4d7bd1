import { Subject } from 'rxjs';
import { ConsoleRing } from '../devices/console-ring.js';
import { ConsoleDecoder } from '../devices/serial-port.js';
import type { SharedBoard } from '../vcpu/shared-board.js';

/** How long text may wait for more, so that a guest that prints byte by byte does not make an event of each. */
const BATCH_MS = 4;

/** The main thread's end of the console: text from the ring, in batches. */
export class ConsoleOutput {
  readonly text = new Subject<string>();
  readonly #decoder: ConsoleDecoder;
  #timer: NodeJS.Timeout | undefined;

  constructor(board: SharedBoard) {
    this.#decoder = new ConsoleDecoder(new ConsoleRing(board));
  }

  /** A thread has said that there is text. */
  announced(): void {
    this.#timer ??= setTimeout(() => this.drain(), BATCH_MS);
  }

  /** Delivers all text that has been printed so far. */
  drain(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const text = this.#decoder.take();
    if (text !== '') this.text.next(text);
  }

  close(): void {
    this.drain();
    this.text.complete();
  }
}

import { Subject } from 'rxjs';
import { ConsoleDecoder } from '../devices/console-decoder.js';
import { ConsoleRing } from '../devices/console-ring.js';
import type { SharedBoard } from '../vcpu/shared-board.js';

/** How long text waits for more, in milliseconds, so that a guest that prints byte by byte does not cause an event for each byte. */
const BATCH_MS = 4;

/** The main thread's side of the console: emits the text of the ring, in batches. */
export class ConsoleOutput {
  readonly text = new Subject<string>();
  readonly #decoder: ConsoleDecoder;
  /** The decoder of output that is printed on this thread; a character of several bytes may come in two pieces. */
  readonly #ownDecoder = new TextDecoder();
  #timer: NodeJS.Timeout | undefined;

  constructor(board: SharedBoard) {
    this.#decoder = new ConsoleDecoder(new ConsoleRing(board));
  }

  /** Called when a thread has announced text: delivers it soon. */
  announced(): void {
    this.#timer ??= setTimeout(() => this.drain(), BATCH_MS);
  }

  /** Delivers text that a device on this thread has been given. */
  print(bytes: Uint8Array): void {
    const text = this.#ownDecoder.decode(bytes, { stream: true });
    if (text !== '') this.text.next(text);
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

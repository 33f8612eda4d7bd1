import { GodwitError, type PageStream } from '@godwit/core';
import { readAnswer } from './link-pages.js';
import type { ServedMemoryParts } from './missing-messages.js';
import { missingSinkOf, type PagePutter } from './page-putter.js';
import { sizesOf } from './sizes-of.js';

export interface RelayEvents {
  /** Called when pages were put. */
  readonly onPages: () => void;
  /** Called when no page can be asked for any more. */
  readonly onLost: (reason: GodwitError) => void;
}

/**
 * Asks for pages on the main thread, over a stream that cannot be moved to another thread (TLS, a command): a thread that waits for a
 * page also waits for the event loop.
 */
export class Relay {
  readonly #stream: PageStream;
  readonly #parts: ServedMemoryParts;
  readonly #events: RelayEvents;
  readonly #putter: PagePutter;

  constructor(stream: PageStream, parts: ServedMemoryParts, events: RelayEvents) {
    this.#stream = stream;
    this.#parts = parts;
    this.#events = events;
    this.#putter = missingSinkOf(parts);
    this.#read().catch((error: unknown) => this.#lose(error));
  }

  request(block: number, page: number): void {
    this.#stream.write({ type: 'requestPages', block, page, pages: 1 }).catch((error: unknown) => this.#lose(error));
  }

  #lose(error: unknown): void {
    this.#events.onLost(GodwitError.wrap(error, 'GODWIT_LINK_LOST', 'the urgent channel failed'));
  }

  async #read(): Promise<never> {
    const putter = this.#putter;
    const memory = sizesOf(this.#parts);
    for (;;) {
      const { block, runs } = await readAnswer(this.#stream, memory, putter.bytes);
      let offset = 0;
      for (let i = 0; i < runs.length; i += 2) {
        const [page, pages] = [runs[i] as number, runs[i + 1] as number];
        putter.put(block, page, pages, offset);
        offset += pages * putter.pageSize;
      }
      this.#events.onPages();
    }
  }
}

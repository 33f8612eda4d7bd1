import type { IncomingMigration } from '@godwit/core';
import { type Observation, observeIncoming } from '@godwit/observe';
import { servedAt } from './migration-page.js';

/** The live page of guests that arrive: of one attempt after the other, at the same address. The last one stays until `close`. */
export class ArrivalPage {
  readonly #title: string;
  #port: number;
  #observation: Observation | undefined;

  /** @param port 0: any free port */
  constructor(port: number, title: string) {
    this.#port = port;
    this.#title = title;
  }

  /**
   * Shows this attempt in place of the one before; resolves with the page's URL.
   *
   * @throws GodwitError GODWIT_INVALID_ARGUMENT when the page cannot be served at that port
   */
  async show(incoming: IncomingMigration): Promise<string> {
    await this.close();
    this.#observation = observeIncoming(incoming, { title: this.#title });
    const { port, url } = await servedAt(this.#observation, this.#port);
    this.#port = port;
    return url;
  }

  async close(): Promise<void> {
    await this.#observation?.close();
  }
}

import type { IncomingEvent, MigrationEvent } from '@godwit/core';
import { type Observation, observe, type PageServer } from '@godwit/observe';
import type { WatchedMessage } from './host-protocol.js';
import type { DemoOptions } from './options.js';
import { PassedOn } from './passed-on.js';
import { formatBytes } from './quantity.js';

/** The live page of the demo. It is served by the controller, which outlives both hosts. */
export class DemoPage {
  readonly #source = new PassedOn<MigrationEvent>();
  readonly #destination = new PassedOn<IncomingEvent>();
  readonly #observation: Observation;
  #server: PageServer | undefined;
  /** The time of the event that is being passed on. */
  #atMs: number | undefined;

  private constructor({ memoryBytes, transport, downtimeLimitMs, maxBandwidth }: DemoOptions) {
    this.#observation = observe(this.#source, {
      incoming: this.#destination,
      title: `A guest of ${formatBytes(memoryBytes)} over ${transport.kind}`,
      now: () => this.#atMs ?? performance.timeOrigin + performance.now(),
      limits: { downtimeLimitMs, bandwidthLimit: maxBandwidth },
    });
  }

  /** Opens the page at a port of this host. Rejects when the port is taken. */
  static async open(options: DemoOptions, port: number): Promise<DemoPage> {
    const page = new DemoPage(options);
    page.#server = await page.#observation.serve({ port });
    return page;
  }

  get url(): string {
    return this.#server?.url ?? '';
  }

  /** Takes an event of either host. */
  hear(message: WatchedMessage): void {
    this.#atMs = message.atMs;
    if (message.side === 'source') this.#source.pass(message.event);
    else this.#destination.pass(message.event);
    this.#atMs = undefined;
  }

  async close(): Promise<void> {
    await this.#observation.close();
  }
}

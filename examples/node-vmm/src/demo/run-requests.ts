import type { HostCommands, MigrateRequest } from './host-protocol.js';
import type { DemoOptions } from './options.js';
import type { Credentials } from './transport-choice.js';

/** The requests of a run to its two hosts, made from its options. */
export class RunRequests {
  readonly #options: DemoOptions;
  readonly #credentials: Credentials | undefined;
  readonly #watched: boolean;

  /** @param watched whether the hosts pass on the engine's own events, for a page */
  constructor(options: DemoOptions, credentials: Credentials | undefined, watched: boolean) {
    this.#options = options;
    this.#credentials = credentials;
    this.#watched = watched;
  }

  listen(): HostCommands['listen']['request'] {
    const { transport, workers, pageChannels, blindTracker, dirtyRing } = this.#options;
    return {
      on: transport.listenOn,
      tls: this.#credentials?.listening,
      threads: !workers ? 0 : pageChannels === 'auto' ? 2 : pageChannels,
      watched: this.#watched,
      blindTracker,
      dirtyRing,
    };
  }

  migrate(address: string): MigrateRequest {
    const { downtimeLimitMs, maxBandwidth, maxRounds, policy, timeBudgetMs, verify, record } = this.#options;
    const { pageChannels, workers, encodings, postcopy, postcopyBandwidth } = this.#options;
    return {
      address,
      tls: this.#credentials?.connecting,
      ...{ downtimeLimitMs, maxBandwidth, maxRounds, policy, timeBudgetMs, verify, record },
      ...{ pageChannels, workers, encodings, postcopy, postcopyBandwidth },
      watched: this.#watched,
    };
  }
}

import type { LinkConnector, LinkListener } from '@godwit/core';
import type { Listener, Transport } from '../stream/byte-stream.js';

/**
 * A carrier that is no stream of bytes and makes links itself: a file. `connectTo` and `listenOn` take it like any
 * transport; its own `connect` and `listen` fail with `GODWIT_UNSUPPORTED`.
 */
export interface LinkTransport extends Transport {
  readonly links: {
    readonly connector: LinkConnector;
    /** Begins to accept migrations. */
    listen(): Promise<LinkListener & { readonly address: string; readonly listener: Listener }>;
  };
}

export function makesLinks(transport: Transport): transport is LinkTransport {
  return 'links' in transport;
}

import type { GodwitError, LinkConnector, LinkListener } from '@godwit/core';
import { connectTo, type Listener, listenOn, type Transport } from '@godwit/transport';
import { onWorkers } from '@godwit/workers';

/**
 * The source's links over a transport. Page channels have threads of their own where its streams are plain sockets, unless `workers` is
 * false: then pages are read on the main thread.
 */
export function linksTo(transport: Transport, { workers = true }: { readonly workers?: boolean } = {}): LinkConnector {
  const connector = connectTo(transport);
  return workers && transport.plainSockets === true ? onWorkers(connector) : connector;
}

/** A listener, and where a source connects. */
export interface ListeningAt {
  readonly links: LinkListener;
  readonly address: string;
}

export interface ArrivalOptions {
  /** Threads for page channels that are started at once; 0: pages are written on the main thread. Default 2, as many as a source has by default. */
  readonly threads?: number;
  /** Hears of each peer that was refused, and why. */
  readonly onRefused?: (error: GodwitError, peer: string) => void;
}

/** The destination's links over a transport, with threads for page channels where its streams are plain sockets. */
export async function linksFrom<L extends Listener>(
  transport: Transport<L>,
  { threads = 2, onRefused }: ArrivalOptions = {},
): Promise<ListeningAt> {
  const links = await listenOn(transport, onRefused === undefined ? {} : { onRefused });
  const { address } = links;
  return { links: threads > 0 && transport.plainSockets === true ? onWorkers(links, { threads }) : links, address };
}

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

/** A listener, and the address to which a source connects. */
export interface ListeningAt {
  readonly links: LinkListener;
  readonly address: string;
}

export interface ArrivalOptions {
  /** Threads that are started at once for page channels; 0: the main thread writes pages. Default 2, as many channels as a source has. */
  readonly threads?: number;
  /** Called with the reason for each peer that was refused. */
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

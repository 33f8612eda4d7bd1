import type { GodwitError, LinkConnector, LinkListener } from '@godwit/core';
import { connectTo, type Listener, listenOn, type Transport } from '@godwit/transport';
import { type ChannelThreads, onWorkers } from '@godwit/workers';

export interface DepartureLinks {
  /** Whether page channels have threads of their own. Default true; without them pages are read on the main thread. */
  readonly workers?: boolean;
  /** Threads that wait for page channels. Without them each page channel starts one. */
  readonly threads?: ChannelThreads | undefined;
}

/** The source's links over a transport, with threads for page channels where its streams are plain sockets. */
export function linksTo(transport: Transport, { workers = true, threads }: DepartureLinks = {}): LinkConnector {
  const connector = connectTo(transport);
  if (!workers || transport.plainSockets !== true) return connector;
  return onWorkers(connector, threads === undefined ? {} : { threads });
}

/** A listener, and the address to which a source connects. */
export interface ListeningAt {
  readonly links: LinkListener;
  readonly address: string;
}

export interface ArrivalOptions {
  /**
   * Threads that are started at once for page channels; 0: the main thread writes pages. Default 3: two channels, and the urgent stream
   * that a source with post-copy has.
   */
  readonly threads?: number;
  /** Called with the reason for each peer that was refused. */
  readonly onRefused?: (error: GodwitError, peer: string) => void;
}

/** The destination's links over a transport, with threads for page channels where its streams are plain sockets. */
export async function linksFrom<L extends Listener>(
  transport: Transport<L>,
  { threads = 3, onRefused }: ArrivalOptions = {},
): Promise<ListeningAt> {
  const links = await listenOn(transport, onRefused === undefined ? {} : { onRefused });
  const { address } = links;
  return { links: threads > 0 && transport.plainSockets === true ? onWorkers(links, { threads }) : links, address };
}

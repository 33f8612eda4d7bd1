import { availableParallelism } from 'node:os';
import {
  checkOptions,
  type FrameStream,
  GodwitError,
  type GuestMemory,
  type IncomingLink,
  type LinkConnector,
  type LinkListener,
  nonNegative,
  type PageStream,
} from '@godwit/core';
import { duplicateFd } from '@godwit/linux/unstable';
import { detachStream } from '@godwit/transport';
import { isAttachable } from './attachable-memory.js';
import { ChannelThreads } from './channel-threads.js';
import { WorkerStream } from './worker-stream.js';

/** Options of `onWorkers` for threads that are started in advance. */
export interface IdleThreads {
  /**
   * The threads that page channels take, each one for itself; a page channel that finds no idle thread starts one, and waits for that (50
   * to 100 ms). A number: so many are started at once, for these links alone; those of a listener end when it closes. `channelThreads()`:
   * threads that were started before there were links, and that stay the caller's, who ends them. Idle threads do not keep the process
   * alive. Default: 0.
   */
  readonly threads?: number | ChannelThreads;
}

/**
 * Moves every page channel to a worker thread of its own, which maps the same guest memory: it reads, classifies and writes pages at the
 * source, or reads frames and fills guest memory at the destination, by blocking calls on the socket. The control stream stays on this
 * thread. Each side may use this independently of the other, since the bytes on the wire are the same.
 *
 * Requires streams that are plain sockets (`tcp`, `unix`) and memory that has an `attachment()` (`createGuestMemory`). With these,
 * `pageChannels: 'auto'`, the default, gives two page channels, and one for less than 1 GiB of memory on a host with up to three
 * processors; without them it gives none, and pages go over the control stream. Where `pageChannels` is a number, other streams or memory fail with
 * `GODWIT_UNSUPPORTED` before a page moves.
 *
 * @example
 * const migration = migrate(vm, onWorkers(connectTo(tcp({ host, port })), { threads: 1 }));
 * const incoming = receive(onWorkers(await listenOn(tcp({ host: '0.0.0.0', port })), { threads: 1 }), { prepare });
 */
export function onWorkers(connector: LinkConnector, options?: IdleThreads): LinkConnector;
export function onWorkers<L extends LinkListener>(listener: L, options?: IdleThreads): L;
export function onWorkers(ends: LinkConnector | LinkListener, options: IdleThreads = {}): LinkConnector | LinkListener {
  checkOptions<IdleThreads>('onWorkers', options, { threads: true });
  const { threads = 0 } = options;
  if (threads instanceof ChannelThreads) {
    return 'connect' in ends ? connectorOnWorkers(ends, threads) : listenerOnWorkers(ends, threads);
  }
  const own = new ChannelThreads(nonNegative('threads', threads));
  if ('connect' in ends) return connectorOnWorkers(ends, own);
  const close = async (): Promise<void> => {
    await Promise.all([ends.close(), own.close()]);
  };
  return { ...listenerOnWorkers(ends, own), close };
}

/** Guest memory from which a second thread on a host with two or three processors is worth its start, in bytes. */
const LARGE_BYTES = 2 ** 30;

/**
 * Returns the number of page channels that `pageChannels: 'auto'` gives on this host to a guest with this memory, where it can live on
 * threads. On two processors that source and destination share, two channels move 2 GiB into fresh huge pages in 0.85 of the time of one,
 * and a guest of 64 MiB in 1.25 of it: a thread takes 50 ms to start.
 *
 * @example
 * const threads = channelThreads(pageChannelsFor(vm.memory));
 */
export function pageChannelsFor({ blocks }: Pick<GuestMemory, 'blocks'>): number {
  const bytes = blocks.reduce((sum, { byteLength }) => sum + byteLength, 0);
  const processors = availableParallelism();
  return processors >= 4 || (processors >= 2 && bytes >= LARGE_BYTES) ? 2 : 1;
}

function connectorOnWorkers(connector: LinkConnector, threads: ChannelThreads): LinkConnector {
  return {
    ...connector,
    pageChannelsFor: (memory) =>
      connector.plainSockets === true && isAttachable(memory) ? pageChannelsFor(memory) : 0,
    async connect(request, signal) {
      // The connections that settle which side runs the guest have no page channels either.
      if (request.pageChannels === 0) return connector.connect(request, signal);
      const link = await connector.connect(request, signal);
      // Threads that are started here load their modules during the handshake.
      return { ...link, pageChannels: moved(link.pageChannels, threads, link.peer, [link.control]) };
    },
  };
}

function listenerOnWorkers<L extends LinkListener>(listener: L, threads: ChannelThreads): L {
  return {
    ...listener,
    accept: async (signal) => {
      const link = await listener.accept(signal);
      const pageChannels: IncomingLink['pageChannels'] = async (migrationId, count, giveUp) =>
        moved(await link.pageChannels(migrationId, count, giveUp), threads, link.peer, []);
      return { ...link, pageChannels };
    },
  } satisfies LinkListener as L;
}

/** Moves all streams to threads of their own. When one cannot be moved, all of them and `others` are aborted. */
function moved(
  streams: readonly PageStream[],
  threads: ChannelThreads,
  peer: string,
  others: readonly FrameStream[],
): readonly PageStream[] {
  const onThreads: WorkerStream[] = [];
  try {
    for (const [index, stream] of streams.entries()) {
      // The last stream is the urgent one where post-copy is agreed on.
      const detached = detachStream(stream, duplicateFd);
      if (detached === undefined) {
        throw new GodwitError(
          'GODWIT_UNSUPPORTED',
          `the page channels of ${peer} cannot live on worker threads: only plain TCP and UNIX sockets can. ` +
            'Use one of these, or leave onWorkers out',
        );
      }
      onThreads.push(new WorkerStream(detached, threads.take(index === streams.length - 1), peer, index));
    }
    return onThreads;
  } catch (error) {
    const failure = GodwitError.wrap(error, 'GODWIT_UNSUPPORTED', `page channels of ${peer} on worker threads`);
    for (const stream of [...onThreads, ...streams.slice(onThreads.length), ...others]) stream.abort(failure);
    throw failure;
  }
}

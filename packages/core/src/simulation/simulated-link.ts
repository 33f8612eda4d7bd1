import { GodwitError } from '../errors.js';
import type { IncomingLink, LinkConnector, LinkListener } from '../link/migration-link.js';
import type { FrameQueue } from './frame-queue.js';
import type { Parcel } from './parcel.js';
import { type SimulatedNetwork, SimulatedWire } from './simulated-network.js';
import { type SimulatedLinkParts, SimulatedStream } from './simulated-stream.js';

export interface SimulatedLink {
  readonly connector: LinkConnector;
  readonly listener: LinkListener;
}

/** A connector and a listener over a simulated network, which is cut at the scenario's times until `signal` aborts. */
export function simulatedLink(
  network: SimulatedNetwork,
  parts: SimulatedLinkParts,
  signal: AbortSignal,
): SimulatedLink {
  const forth = new SimulatedWire(network);
  const back = new SimulatedWire(network);
  const waiting: IncomingLink[] = [];
  let queues: FrameQueue<Parcel>[] = [];
  let wake: (() => void) | undefined;
  const pair = (isPages: boolean) => {
    const { near, far, queues: both } = SimulatedStream.pair(forth, back, parts, isPages);
    queues.push(...both);
    return { near, far };
  };
  const cut = () => {
    const lost = new GodwitError('GODWIT_LINK_LOST', 'the simulated link was cut');
    for (const queue of queues) queue.fail({ reader: lost, writer: lost });
    queues = [];
    forth.cut();
    back.cut();
  };
  network.watchCuts(cut, signal).catch(() => {});
  return {
    connector: {
      async connect({ pageChannels }, giveUp) {
        giveUp.throwIfAborted();
        // A handshake there and back.
        await network.clock.sleep(2 * network.travelMs(), giveUp);
        if (network.isCut) throw new GodwitError('GODWIT_CONNECT_FAILED', 'the simulated link is cut');
        const control = pair(false);
        const pages = Array.from({ length: pageChannels }, () => pair(true));
        waiting.push({
          control: control.far,
          peer: 'simulated',
          pageChannels: async () => pages.map(({ far }) => far),
        });
        wake?.();
        return { control: control.near, pageChannels: pages.map(({ near }) => near), peer: 'simulated' };
      },
    },
    listener: {
      async accept(stop) {
        for (;;) {
          stop.throwIfAborted();
          const link = waiting.shift();
          if (link !== undefined) return link;
          await new Promise<void>((resolve, reject) => {
            const onAbort = () => reject(stop.reason);
            stop.addEventListener('abort', onAbort, { once: true });
            wake = () => {
              stop.removeEventListener('abort', onAbort);
              resolve();
            };
          });
        }
      },
      async close() {},
    },
  };
}

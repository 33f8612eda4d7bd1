import { type FrameStream, GodwitError, type LinkConnector, type MigrationLink } from '@godwit/core';
import { type FrameStreamOptions, frameStream } from '../framing/frame-stream.js';
import type { Transport } from '../stream/byte-stream.js';
import { makesLinks } from './link-transport.js';

/**
 * The source's side: one control stream and the page channels beside it, each its own stream of `transport`. Every page
 * channel has sent its `attach` frame when `connect` resolves; the control stream has sent nothing. If one stream fails,
 * all are dropped.
 */
export function connectTo(transport: Transport, options: FrameStreamOptions = {}): LinkConnector {
  if (makesLinks(transport)) return transport.links.connector;
  return {
    async connect(request, signal): Promise<MigrationLink> {
      const streams: FrameStream[] = [];
      const framing = request.checksums === true ? { ...options, checksums: true } : options;
      try {
        const carrier = await transport.connect(signal);
        const control = frameStream(carrier, framing);
        streams.push(control);
        const pageChannels: FrameStream[] = [];
        for (let index = 0; index < request.pageChannels; index++) {
          const channel = frameStream(await transport.connect(signal), framing);
          streams.push(channel);
          pageChannels.push(channel);
          await channel.write({
            type: 'attach',
            migrationId: request.migrationId,
            index,
            connection: request.connection,
          });
        }
        return { control, pageChannels, peer: carrier.peer };
      } catch (error) {
        const failure = GodwitError.wrap(error, 'GODWIT_CONNECT_FAILED', 'making the link failed');
        for (const stream of streams) stream.abort(failure);
        throw failure;
      }
    },
  };
}

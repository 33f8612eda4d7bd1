import { checkOptions, type LinkConnector, type LinkRequest, type MigrationLink } from '@godwit/core';
import type { FrameStreamOptions } from '../framing/frame-stream.js';
import type { Transport } from '../stream/byte-stream.js';
import { cancelled, throwIfCancelled } from '../stream/cancellation.js';
import { LinkAttempt } from './link-attempt.js';
import { makesLinks } from './link-transport.js';

export const FRAME_STREAM_OPTIONS: Readonly<Record<keyof FrameStreamOptions, true>> = {
  maximumHeaderBytes: true,
  maximumPayloadBytes: true,
  maximumRuns: true,
  lingerMs: true,
  checksums: true,
};

/**
 * The source's side: one control stream and the page channels beside it, each its own stream of `transport`. All are connected
 * side by side, at most 16 page channels at a time, so that a link of 64 channels over a long path takes four connects and not
 * 64. Every page channel has sent its `attach` frame when `connect` resolves; the control stream has sent nothing.
 *
 * If one stream fails, or the signal aborts, all are dropped: `connect` rejects with that first reason, whose `retry` says
 * whether another attempt may succeed. If the destination refuses a page channel, its error is that reason; an error that comes
 * after `connect` has resolved is the one with which reading the control stream fails.
 *
 * @example
 * const link = await connectTo(tcp({ host: 'vm-host', port: 4444 })).connect(
 *   { migrationId, pageChannels: 8, connection: 1 },
 *   AbortSignal.timeout(10_000),
 * );
 */
export function connectTo(transport: Transport, options: FrameStreamOptions = {}): LinkConnector {
  checkOptions<FrameStreamOptions>('connectTo', options, FRAME_STREAM_OPTIONS);
  if (makesLinks(transport)) return transport.links.connector;
  return {
    plainSockets: transport.plainSockets === true,
    async connect(request, signal): Promise<MigrationLink> {
      const what = `making a link of ${request.pageChannels + 1} streams`;
      throwIfCancelled(signal, what);
      const attempt = new LinkAttempt(transport, framingOf(request, options), request);
      const onAbort = (): void => attempt.fail(cancelled(signal, what));
      signal.addEventListener('abort', onAbort, { once: true });
      try {
        return await attempt.link();
      } finally {
        signal.removeEventListener('abort', onAbort);
      }
    },
  };
}

function framingOf({ checksums }: LinkRequest, options: FrameStreamOptions): FrameStreamOptions {
  return checksums === true ? { ...options, checksums: true } : options;
}

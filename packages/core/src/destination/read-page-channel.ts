import { GodwitError } from '../errors.js';
import type { FrameStream, ReceivedFrame } from '../link/frame-stream.js';
import type { DeviceFrame } from '../protocol/frame.js';
import type { FrameName } from '../protocol/frame-types.js';
import { MAXIMUM_PAYLOAD } from '../protocol/negotiate.js';
import type { PageWriter } from './page-writer.js';

/** Called when a channel has ended a round, with the number of pages that came on it. Reading goes on once it resolves. */
export type ChannelRoundEnd = (round: number, pages: number) => Promise<void> | void;

/** Called for a frame of device state: reads its payload from the stream. Reading goes on once it resolves. */
export type ChannelDevice = (stream: FrameStream, frame: DeviceFrame, payloadBytes: number) => Promise<void>;

/**
 * Reads a page channel until it ends or the board is stopped. The channel may end once the board is sealed; before that it rejects
 * with `GODWIT_LINK_LOST`. Once it has settled, guest memory is no longer written for this channel.
 */
export async function readPageChannel(
  stream: FrameStream,
  writer: PageWriter,
  onRoundEnd: ChannelRoundEnd,
  onDevice?: ChannelDevice,
): Promise<void> {
  const { board, channel } = writer;
  for (;;) {
    const received = await stream.read();
    if (board.stopped) return;
    if (received === null) {
      if (board.sealed) return;
      throw new GodwitError(
        'GODWIT_LINK_LOST',
        `the source closed page channel ${channel} before the end of the migration`,
      );
    }
    const { frame } = received;
    const { type } = frame;
    if (frame.type === 'device' && onDevice !== undefined) {
      checkPayload(type, received.payloadBytes);
      await onDevice(stream, frame, received.payloadBytes);
      continue;
    }
    if (!isPageFrame(type)) {
      throw new GodwitError('GODWIT_PROTOCOL', `a "${type}" frame came on page channel ${channel}`);
    }
    await takePageFrame(stream, received, writer, onRoundEnd);
  }
}

/** Handles a frame of pages, or the end of a round. */
export async function takePageFrame(
  stream: FrameStream,
  { frame, payloadBytes }: ReceivedFrame,
  writer: PageWriter,
  onRoundEnd: ChannelRoundEnd,
): Promise<void> {
  checkPayload(frame.type, payloadBytes);
  if (frame.type === 'pages') await writer.pages(stream, frame, payloadBytes);
  else if (frame.type === 'zeroPages') await writer.zeroPages(frame);
  else if (frame.type === 'deltaPages') await writer.deltaPages(stream, frame, payloadBytes);
  else if (frame.type === 'compressedPages') await writer.compressedPages(stream, frame, payloadBytes);
  else if (frame.type === 'roundEnd') await onRoundEnd(frame.round, writer.roundEnd(frame));
}

/** The frames that may come on a page channel. */
const PAGE_FRAMES: ReadonlySet<FrameName> = new Set<FrameName>([
  'pages',
  'zeroPages',
  'deltaPages',
  'compressedPages',
  'roundEnd',
]);

export function isPageFrame(type: FrameName): boolean {
  return PAGE_FRAMES.has(type);
}

export function checkPayload(type: FrameName, payloadBytes: number): void {
  if (payloadBytes <= MAXIMUM_PAYLOAD) return;
  throw new GodwitError(
    'GODWIT_LIMIT_EXCEEDED',
    `a "${type}" frame has ${payloadBytes} bytes of payload; at most ${MAXIMUM_PAYLOAD} were agreed on`,
  );
}

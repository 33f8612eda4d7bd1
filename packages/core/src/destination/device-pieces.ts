import { GodwitError } from '../errors.js';
import type { FrameStream } from '../link/frame-stream.js';
import type { DeviceFrame } from '../protocol/frame.js';
import { FEATURES } from '../protocol/negotiate.js';
import type { Arriving, DestinationContext } from './destination-context.js';
import type { IncomingConnection } from './incoming-connection.js';

/** Whether pieces of device state may come on page channels too, and so in any order. */
export function onChannels({ welcome }: Pick<Arriving, 'welcome'>): boolean {
  return welcome.features.includes(FEATURES.deviceChannels);
}

/** Reads a piece of device state from a stream, the control stream or a page channel, and takes it. */
export async function readPiece(
  context: DestinationContext,
  connection: IncomingConnection,
  stream: FrameStream,
  frame: DeviceFrame,
  payloadBytes: number,
): Promise<void> {
  const { loader } = checked(context, frame);
  await loader.receive(frame, payloadBytes, stream, () => connection.signal.aborted);
}

/** Takes a piece of device state that another thread has read from a page channel. */
export function takePiece(
  context: DestinationContext,
  connection: IncomingConnection,
  frame: DeviceFrame,
  bytes: Uint8Array,
): void {
  if (connection.signal.aborted) return;
  const { loader } = checked(context, frame);
  if (loader.admit(frame, bytes.byteLength)) loader.accept(frame, bytes);
}

/**
 * A piece of an attempt that was given up may still be on its way on a page channel when `back` is read: such a piece is void, in
 * whatever phase it comes. Every other piece belongs to pre-copy or to the source's present attempt, and comes while the destination is
 * receiving.
 */
function checked({ arriving, serving }: DestinationContext, { attempt }: DeviceFrame): Arriving {
  if (arriving === undefined) throw new GodwitError('GODWIT_INTERNAL', 'device state before there is a VM');
  const late = attempt > 0 && attempt < arriving.attempt && onChannels(arriving);
  if (late) return arriving;
  if (serving?.protocolPhase !== 'receiving') {
    throw new GodwitError(
      'GODWIT_PROTOCOL',
      `a "device" frame of attempt ${attempt} came while the destination is in phase "${serving?.protocolPhase}"`,
    );
  }
  if (attempt === 0 || attempt === arriving.attempt) return arriving;
  throw new GodwitError(
    'GODWIT_PROTOCOL',
    `"device" is for attempt ${attempt}, but the source is in attempt ${arriving.attempt}`,
  );
}

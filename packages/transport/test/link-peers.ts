import type { ErrorFrame, FrameStream, HelloFrame, IncomingLink, LinkListener } from '@godwit/core';
import { type ByteStream, connectTo, frameStream, type Transport } from '@godwit/transport';

/** A migration, and what its source and peers that are none say to a listener. */
export const ID = '0123456789abcdef0123456789abcdef';
export const never: AbortSignal = new AbortController().signal;

export function hello(pageChannels: number, migrationId = ID, connection = 1): HelloFrame {
  return {
    type: 'hello',
    minimumVersion: 2,
    maximumVersion: 2,
    migrationId,
    software: 'test',
    pageSize: 4096,
    blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 2 ** 33, identity: '' }],
    devices: [],
    features: [],
    pageChannels,
    description: { name: 'vm1' },
    connection,
    stage: 'running',
    attempt: 1,
  };
}

export function idOf(number: number): string {
  return number.toString(16).padStart(32, '0');
}

/** The error frame of a stream that is refused. */
export async function refusal(stream: FrameStream): Promise<ErrorFrame> {
  const received = await stream.read();
  if (received?.frame.type !== 'error') throw new Error(`expected an error frame, got ${received?.frame.type}`);
  await stream.close();
  return received.frame;
}

/** Resolves when the peer has dropped the stream, or ended it, without a word. */
export async function dropped(stream: FrameStream): Promise<void> {
  const said = await stream.read().catch(() => null);
  if (said !== null) throw new Error(`expected nothing, got ${JSON.stringify(said.frame)}`);
  await stream.close();
}

export async function pending(transport: Transport): Promise<{ carrier: ByteStream; stream: FrameStream }> {
  const carrier = await transport.connect(never);
  return { carrier, stream: frameStream(carrier) };
}

/** A stream that has said which page channel it wants to be. */
export async function attached(
  transport: Transport,
  index: number,
  { migrationId = ID, connection = 1 } = {},
): Promise<FrameStream> {
  const { stream } = await pending(transport);
  await stream.write({ type: 'attach', migrationId, index, connection });
  return stream;
}

/** The two ends of a link whose source has said hello. */
export interface Met {
  readonly control: FrameStream;
  readonly pageChannels: readonly FrameStream[];
  readonly incoming: IncomingLink;
}

export async function meet(
  links: LinkListener,
  transport: Transport,
  pageChannels: number,
  { migrationId = ID, connection = 1 } = {},
): Promise<Met> {
  const link = await connectTo(transport).connect({ migrationId, pageChannels, connection }, never);
  await link.control.write(hello(pageChannels, migrationId, connection));
  const channels = link.pageChannels as readonly FrameStream[];
  return { control: link.control, pageChannels: channels, incoming: await links.accept(never) };
}

export async function finish(...streams: readonly FrameStream[]): Promise<void> {
  await Promise.all(streams.map((stream) => stream.close()));
}

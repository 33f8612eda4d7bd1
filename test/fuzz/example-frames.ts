import { FRAMES_WITH_PAYLOAD, type Frame } from '@godwit/core';
import { frameStream, memoryPair } from '@godwit/transport';

export const MIGRATION_ID = '000102030405060708090a0b0c0d0e0f';
export const PAGE = 256;
/** Pages of each RAM block of the VMs that are fuzzed. */
export const BLOCK_PAGES = [8, 5] as const;

/** A whole migration without page channels, as the source writes it. */
export function exampleFrames(): Frame[] {
  let address = 0;
  const blocks = BLOCK_PAGES.map((pages, index) => {
    const block = { id: `ram${index}`, guestPhysicalAddress: address, byteLength: pages * PAGE, identity: '' };
    address += block.byteLength;
    return block;
  });
  return [
    {
      type: 'hello',
      minimumVersion: 2,
      maximumVersion: 2,
      migrationId: MIGRATION_ID,
      software: 'fuzz',
      pageSize: PAGE,
      blocks,
      devices: [{ id: 'cpu', version: 1, stateBytes: 0 }],
      features: ['verify', 'encoding:delta'],
      pageChannels: 0,
      connection: 1,
      stage: 'running',
      attempt: 1,
      description: { name: 'guest', list: [1, 2.5, 'x', null, true] },
    },
    { type: 'ping', id: 1 },
    { type: 'pages', round: 1, block: 0, runs: [0, 2, 5, 1] },
    { type: 'zeroPages', round: 1, block: 1, runs: [1, 3] },
    { type: 'roundEnd', round: 1, pages: 6 },
    { type: 'pages', round: 2, block: 1, runs: [4, 1] },
    { type: 'zeroPages', round: 2, block: 0, runs: [0, 1] },
    { type: 'deltaPages', round: 2, block: 0, runs: [1, 1] },
    { type: 'roundEnd', round: 2, pages: 3 },
    { type: 'device', device: 0, sequence: 0, last: false, attempt: 0 },
    { type: 'device', device: 0, sequence: 1, last: true, attempt: 0 },
    { type: 'switchover', round: 2, attempt: 1, runState: 'running' },
    { type: 'go', attempt: 1 },
    { type: 'released' },
  ];
}

/** The bytes of frames; payloads have the size that the frame asks for. */
export async function encodeFrames(frames: readonly Frame[]): Promise<Uint8Array> {
  const [near, far] = memoryPair('fuzz:', 2 ** 22);
  const stream = frameStream(near);
  for (const [index, frame] of frames.entries()) {
    if (FRAMES_WITH_PAYLOAD.has(frame.type))
      await stream.write(frame, [new Uint8Array(payloadBytesOf(frame)).fill(index)]);
    else await stream.write(frame);
  }
  const bytes = new Uint8Array(stream.bytesWritten);
  for (let at = 0; at < bytes.length; ) at += await far.read(bytes.subarray(at));
  return bytes;
}

function payloadBytesOf(frame: Frame): number {
  if (frame.type !== 'pages') return 24;
  let pages = 0;
  for (let i = 1; i < frame.runs.length; i += 2) pages += frame.runs[i] as number;
  return pages * PAGE;
}

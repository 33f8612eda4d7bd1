import type { Frame, FrameStream, HelloFrame, ReceivedFrame } from '@godwit/core';
import { frameStream, recordTo } from '@godwit/transport';

export const PAGE = 4096;

/** Who says what on which stream (0 is the control stream). */
export type Step = readonly [from: 'S' | 'D', stream: number, frame: Frame, payloadBytes?: number];

export function hello(more: Partial<HelloFrame> = {}): HelloFrame {
  return {
    type: 'hello',
    minimumVersion: 2,
    maximumVersion: 2,
    migrationId: '00112233445566778899aabbccddeeff',
    software: 'test/1',
    pageSize: PAGE,
    blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 64 * PAGE, identity: '' }],
    devices: [{ id: 'serial', version: 3, stateBytes: 0 }],
    features: [],
    pageChannels: 2,
    description: { name: 'vm1' },
    connection: 1,
    stage: 'running',
    attempt: 1,
    ...more,
  };
}

export const WELCOME: Frame = {
  type: 'welcome',
  version: 2,
  features: [],
  software: 'test/2',
  maximumPayload: 2 ** 20,
  incarnation: '1'.repeat(32),
  maximumDeviceState: 2 ** 28,
};

/** A migration without a fault, in two rounds over two page channels, with a piece of state while the guest runs. */
export const FAULTLESS: readonly Step[] = [
  ['S', 0, hello()],
  ['D', 0, WELCOME],
  ['S', 1, { type: 'pages', round: 1, block: 0, runs: [0, 2, 5, 1] }, 3 * PAGE],
  ['S', 2, { type: 'zeroPages', round: 1, block: 0, runs: [10, 50] }],
  ['S', 1, { type: 'roundEnd', round: 1, pages: 3 }],
  ['S', 2, { type: 'roundEnd', round: 1, pages: 50 }],
  ['D', 0, { type: 'roundAck', round: 1, pages: 53 }],
  ['S', 2, { type: 'pages', round: 2, block: 0, runs: [63, 1] }, PAGE],
  ['S', 1, { type: 'roundEnd', round: 2, pages: 0 }],
  ['S', 2, { type: 'roundEnd', round: 2, pages: 1 }],
  ['D', 0, { type: 'roundAck', round: 2, pages: 1 }],
  ['S', 0, { type: 'device', device: 0, sequence: 0, last: false, attempt: 0 }, 100],
  ['S', 0, { type: 'device', device: 0, sequence: 0, last: true, attempt: 1 }, 23],
  ['S', 0, { type: 'switchover', round: 2, attempt: 1, runState: 'running' }],
  ['D', 0, { type: 'ready', attempt: 1, loadMs: 1.5 }],
  ['S', 0, { type: 'go', attempt: 1 }],
  ['D', 0, { type: 'running', resumeMs: 0.5, sinceReadyMs: 0 }],
];

const PREPARED = { type: 'prepared', incarnation: '1'.repeat(32), deviceSequences: [1] } as const;

/** One whose first stop-and-copy is given up when all of it is loaded, with the answer to it under way. */
export const GOES_BACK: readonly Step[] = [
  ['S', 0, hello({ features: ['back'] })],
  ['D', 0, { ...WELCOME, features: ['back'] } as Frame],
  ...FAULTLESS.slice(2, 12),
  ['D', 0, { type: 'loaded', device: 0, sequence: 1 }],
  ['S', 0, { type: 'prepare', attempt: 1, deviceSequences: [1] }],
  ['D', 0, { ...PREPARED, attempt: 1 }],
  ['S', 0, { type: 'device', device: 0, sequence: 0, last: true, attempt: 1 }, 23],
  ['S', 0, { type: 'switchover', round: 2, attempt: 1, runState: 'paused' }],
  ['S', 0, { type: 'back', attempt: 1 }],
  ['D', 0, { type: 'ready', attempt: 1, loadMs: 900 }],
  ['D', 0, { type: 'backAck', attempt: 1, deviceResets: [0] }],
  ['S', 0, { type: 'prepare', attempt: 2, deviceSequences: [1] }],
  ['D', 0, { type: 'owed', block: 0, runs: [3, 1] }],
  ['D', 0, { ...PREPARED, attempt: 2 }],
  ['S', 1, { type: 'pages', round: 3, block: 0, runs: [3, 1] }, PAGE],
  ['S', 1, { type: 'roundEnd', round: 3, pages: 1 }],
  ['S', 2, { type: 'roundEnd', round: 3, pages: 0 }],
  ['D', 0, { type: 'roundAck', round: 3, pages: 1 }],
  ['S', 0, { type: 'device', device: 0, sequence: 0, last: false, attempt: 2 }, 20],
  ['S', 0, { type: 'device', device: 0, sequence: 1, last: true, attempt: 2 }, 4],
  ['S', 0, { type: 'switchover', round: 3, attempt: 2, runState: 'paused' }],
  ['D', 0, { type: 'ready', attempt: 2, loadMs: 1.5 }],
  ['S', 0, { type: 'go', attempt: 2 }],
  ['D', 0, { type: 'running', resumeMs: 0.5, sinceReadyMs: 0.75 }],
  ['S', 0, { type: 'released' }],
];

/** Records these frames as if a migration had sent them: a link that takes everything, and says what it is told to. */
export async function record(path: string, steps: readonly Step[]): Promise<void> {
  const recording = await recordTo(path);
  const answers = new Map<number, [Frame, number][]>();
  const silent = (stream: number): FrameStream => ({
    bytesWritten: 0,
    bytesRead: 0,
    write: async () => {},
    read: async (): Promise<ReceivedFrame | null> => {
      const [next, payloadBytes] = answers.get(stream)?.shift() ?? [];
      return next === undefined ? null : { frame: next, payloadBytes: payloadBytes ?? 0 };
    },
    readPayload: async () => {},
    skipPayload: async () => {},
    close: async () => {},
    abort: () => {},
  });
  const connector = recording.connector({
    connect: async () => ({ control: silent(0), pageChannels: [silent(1), silent(2)], peer: 'test' }),
  });
  const request = { migrationId: hello().migrationId, pageChannels: 2, connection: 1 };
  let link = await connector.connect(request, new AbortController().signal);
  let first = true;
  for (const [from, stream, frame, payloadBytes] of steps) {
    if (frame.type === 'hello' && !first) link = await connector.connect(request, new AbortController().signal);
    first = false;
    const streams = [link.control, ...link.pageChannels];
    const one = streams[stream] as FrameStream;
    if (from === 'S') {
      await one.write(frame, payloadBytes === undefined ? undefined : [new Uint8Array(payloadBytes).fill(7)]);
    } else {
      answers.set(stream, [[frame, payloadBytes ?? 0]]);
      await one.read();
      if (payloadBytes !== undefined) await one.skipPayload();
    }
  }
  await recording.close();
}

/** The bytes of one bare stream. */
export async function bareStream(frames: readonly (readonly [Frame, number?])[]): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  const stream = frameStream({
    peer: 'test',
    write: async (chunks) => {
      for (const chunk of chunks) parts.push(Uint8Array.from(chunk));
    },
    read: async () => 0,
    close: async () => {},
    abort: () => {},
  });
  for (const [frame, payloadBytes] of frames) {
    await stream.write(frame, payloadBytes === undefined ? undefined : [new Uint8Array(payloadBytes)]);
  }
  return Uint8Array.from(Buffer.concat(parts));
}

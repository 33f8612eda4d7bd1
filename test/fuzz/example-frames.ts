import { FRAMES_WITH_PAYLOAD, type Frame, type HelloFrame, type WelcomeFrame } from '@godwit/core';
import { frameStream, memoryPair } from '@godwit/transport';

export const MIGRATION_ID = '000102030405060708090a0b0c0d0e0f';
export const INCARNATION = '1'.repeat(32);
export const PAGE = 256;
/** Pages of each RAM block of the VMs that are fuzzed. */
export const BLOCK_PAGES = [8, 5] as const;
/** The devices of the VMs that are fuzzed: `nic` sends state while the guest runs. */
export const DEVICES = ['cpu', 'nic'] as const;

/** The number of rounds before the first stop-and-copy, in all examples. */
export const ROUNDS_BEFORE = 2;

function hello(): HelloFrame {
  let address = 0;
  const blocks = BLOCK_PAGES.map((pages, index) => {
    const block = { id: `ram${index}`, guestPhysicalAddress: address, byteLength: pages * PAGE, identity: '' };
    address += block.byteLength;
    return block;
  });
  return {
    type: 'hello',
    minimumVersion: 2,
    maximumVersion: 2,
    migrationId: MIGRATION_ID,
    software: 'fuzz',
    pageSize: PAGE,
    blocks,
    devices: DEVICES.map((id) => ({ id, version: 1, stateBytes: 48 })),
    features: ['verify', 'back', 'encoding:delta', 'deviceChannels', 'loadEarly'],
    pageChannels: 0,
    connection: 1,
    stage: 'running',
    attempt: 1,
    description: { name: 'guest', list: [1, 2.5, 'x', null, true] },
  };
}

/** Pre-copy: two rounds, with a piece of device state between them. */
function precopy(): Frame[] {
  return [
    hello(),
    { type: 'ping', id: 1 },
    { type: 'pages', round: 1, block: 0, runs: [0, 2, 5, 1] },
    { type: 'zeroPages', round: 1, block: 1, runs: [1, 3] },
    { type: 'roundEnd', round: 1, pages: 6 },
    { type: 'device', device: 1, sequence: 0, last: false, attempt: 0 },
    { type: 'pages', round: 2, block: 1, runs: [4, 1] },
    { type: 'zeroPages', round: 2, block: 0, runs: [0, 1] },
    { type: 'deltaPages', round: 2, block: 0, runs: [1, 1] },
    { type: 'roundEnd', round: ROUNDS_BEFORE, pages: 3 },
  ];
}

function prepare(attempt: number): Frame {
  return { type: 'prepare', attempt, deviceSequences: [0, 1] };
}

/** A stop-and-copy up to `switchover`. */
function stopped(round: number, attempt: number, runState: 'running' | 'paused' = 'running'): Frame[] {
  return [
    { type: 'device', device: 0, sequence: 0, last: false, attempt },
    { type: 'device', device: 0, sequence: 1, last: true, attempt },
    { type: 'device', device: 1, sequence: 0, last: true, attempt },
    { type: 'switchover', round, attempt, runState },
  ];
}

function handedOver(attempt: number): Frame[] {
  return [{ type: 'go', attempt }, { type: 'released' }];
}

const back = (attempt: number): Frame => ({ type: 'back', attempt });

const laterRound = (round: number): Frame[] => [
  { type: 'pages', round, block: 0, runs: [3, 1] },
  { type: 'roundEnd', round, pages: 1 },
];

/**
 * Whole migrations without page channels, as a source writes them. Every type of a source's frames is in one of them.
 */
export function exampleMigrations(): readonly (readonly Frame[])[] {
  return [
    [...precopy(), ...stopped(2, 1), ...handedOver(1)],
    [...precopy(), prepare(1), ...stopped(2, 1, 'paused'), ...handedOver(1)],
    [
      ...precopy(),
      { type: 'awaitPieces', id: 1, attempt: 0, deviceSequences: [0, 1] },
      { type: 'device', device: 0, sequence: 0, last: false, attempt: 1, resets: 0 },
      { type: 'loadEarly', attempt: 1, device: 0, deviceSequences: [0, 1] },
      { type: 'awaitPieces', id: 2, attempt: 1, deviceSequences: [2, 1] },
      ...stopped(2, 1).slice(1, -1),
      { type: 'switchover', round: 2, attempt: 1, runState: 'running', deviceSequences: [0, 1] },
      ...handedOver(1),
    ],
    [
      ...precopy(),
      prepare(1),
      ...stopped(2, 1),
      back(1),
      ...laterRound(3),
      prepare(2),
      ...stopped(3, 2),
      ...handedOver(2),
    ],
    [
      ...precopy(),
      back(1),
      ...laterRound(3),
      ...stopped(3, 2).slice(0, 2),
      back(2),
      ...stopped(3, 3),
      ...handedOver(3),
    ],
    [
      ...precopy(),
      ...stopped(2, 1),
      { type: 'digests', block: 0, runs: [0, 3] },
      { type: 'digestsEnd' },
      back(1),
      ...stopped(2, 2),
      ...handedOver(2),
    ],
    [
      { ...hello(), features: ['back', 'bitmap', 'deviceChannels', 'postcopy'] },
      ...precopy()
        .slice(1)
        .filter(({ type }) => type !== 'deltaPages')
        .map((frame) => (frame.type === 'roundEnd' && frame.round === 2 ? { ...frame, pages: 2 } : frame)),
      { type: 'missing', block: 0, runs: [0, 2, 5, 1] },
      ...stopped(2, 1).slice(0, -1),
      { type: 'missing', block: 1, runs: [], firstPage: 0, words: [6] },
      ...stopped(2, 1).slice(-1),
      { type: 'go', attempt: 1 },
      { type: 'pages', round: 3, block: 0, runs: [0, 1, 5, 1] },
      { type: 'zeroPages', round: 3, block: 1, runs: [1, 2] },
      { type: 'pages', round: 3, block: 0, runs: [1, 1] },
      { type: 'roundEnd', round: 3, pages: 5 },
      { type: 'released' },
    ],
    [{ ...hello(), stage: 'dryRun' }],
    [
      { ...hello(), stage: 'kept', connection: 2 },
      { type: 'error', code: 'GODWIT_CANCELLED', message: 'x', retry: false },
    ],
  ];
}

export const EXAMPLE_WELCOME: WelcomeFrame = {
  type: 'welcome',
  version: 2,
  features: [],
  software: 'fuzz',
  maximumPayload: 2 ** 20,
  incarnation: INCARNATION,
  maximumDeviceState: 2 ** 28,
};

/** Frames of a destination, every type of them. */
export function exampleAnswers(): readonly Frame[] {
  const resumed = { round: 1, deviceSequences: [0, 1], deviceResets: [0, 0], incarnation: INCARNATION } as const;
  return [
    EXAMPLE_WELCOME,
    { type: 'pong', id: 1 },
    { type: 'ping', id: 1 },
    { type: 'roundAck', round: 1, pages: 0 },
    { type: 'ready', attempt: 1, loadMs: 1 },
    { type: 'verified', pagesCompared: 13, pagesDifferent: 0, differences: [] },
    { type: 'running', resumeMs: 1, sinceReadyMs: 1.5 },
    { type: 'error', code: 'GODWIT_DEVICE_FAILED', message: 'fuzz', retry: false },
    { type: 'error', code: 'NONSENSE', message: '', retry: true },
    { type: 'received', block: 0, runs: [0, 2] },
    { type: 'received', block: 0, runs: [], firstPage: 0, words: [5] },
    { type: 'prepared', incarnation: INCARNATION, attempt: 1, deviceSequences: [0, 1] },
    {
      ...{ type: 'prepared', incarnation: INCARNATION, attempt: 1, deviceSequences: [0, 1] },
      ...{ load: [1, 0.5, 2, 3, 1, 9], resume: [1, 0, 1e300] },
    },
    { type: 'backAck', attempt: 1, deviceResets: [0, 1] },
    { type: 'owed', block: 0, runs: [2, 1] },
    { type: 'owed', block: 0, runs: [], firstPage: 32, words: [1, 0x8000_0000] },
    { type: 'loaded', device: 1, sequence: 1 },
    { type: 'loaded', device: 0, sequence: 1, attempt: 1 },
    { type: 'arrived', id: 1 },
    { type: 'resumed', state: 'receiving', ...resumed, resumeMs: 0, sinceReadyMs: 0 },
    { type: 'resumed', state: 'loading', ...resumed, resumeMs: 0, sinceReadyMs: 0 },
    { type: 'resumed', state: 'ready', ...resumed, resumeMs: 0, sinceReadyMs: 0 },
    { type: 'resumed', state: 'running', ...resumed, resumeMs: 1, sinceReadyMs: 2 },
    { type: 'resumed', state: 'incomplete', ...resumed, resumeMs: 1, sinceReadyMs: 2 },
    { type: 'missing', block: 0, runs: [0, 2] },
    { type: 'missing', block: 1, runs: [], firstPage: 0, words: [6] },
    { type: 'whole' },
    { type: 'requestPages', block: 0, page: 5, pages: 1 },
  ];
}

/** Encodes frames; each payload has the size that its frame announces. */
export async function encodeFrames(frames: readonly Frame[]): Promise<Uint8Array> {
  const [near, far] = memoryPair('fuzz:', 2 ** 22);
  const stream = frameStream(near);
  for (const [index, frame] of frames.entries()) {
    if (FRAMES_WITH_PAYLOAD.has(frame.type)) await stream.write(frame, [payloadOf(frame, index)]);
    else await stream.write(frame);
  }
  const bytes = new Uint8Array(stream.bytesWritten);
  for (let at = 0; at < bytes.length; ) at += await far.read(bytes.subarray(at));
  return bytes;
}

function payloadOf(frame: Frame, fill: number): Uint8Array {
  if (frame.type !== 'pages' && frame.type !== 'deltaPages') return new Uint8Array(24).fill(fill);
  let pages = 0;
  for (let i = 1; i < frame.runs.length; i += 2) pages += frame.runs[i] as number;
  // A delta of no bytes leaves the page as it is.
  return frame.type === 'pages' ? new Uint8Array(pages * PAGE).fill(fill) : new Uint8Array(pages);
}

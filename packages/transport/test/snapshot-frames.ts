/** Frames to and from a file that plays a role of a migration, by hand. */
import {
  type DeviceFrame,
  FRAME_TYPES,
  type Frame,
  type FrameName,
  type HelloFrame,
  type MigrationLink,
  type WelcomeFrame,
} from '@godwit/core';
import { connectTo, file } from '@godwit/transport';
import { expect } from '@jest/globals';
import { BLOCKS, PAGE, pageOf } from './snapshot-machine.js';

/** All that a peer may ever say behind its hello. */
export const TYPES = (Object.keys(FRAME_TYPES) as FrameName[]).filter((type) => type !== 'error');
const never = new AbortController().signal;
export const ID = '00112233445566778899aabbccddeeff';
export const STATES = [Buffer.from('the state of the vCPU'), Buffer.from('the serial port')] as const;

export function hello(more: Partial<HelloFrame> = {}): HelloFrame {
  return {
    type: 'hello',
    minimumVersion: 2,
    maximumVersion: 2,
    migrationId: ID,
    software: 'test',
    pageSize: PAGE,
    blocks: BLOCKS.map((block) => ({ ...block, identity: `memory of ${block.id}` })),
    devices: [
      { id: 'vcpu', version: 1, stateBytes: 1_000_000 },
      { id: 'serial', version: 2, stateBytes: 0 },
    ],
    features: ['verify', 'back', 'encoding:delta'],
    pageChannels: 0,
    description: null,
    connection: 1,
    stage: 'running',
    attempt: 1,
    ...more,
  };
}

export function piece(device: number, sequence: number, attempt: number, last = false): DeviceFrame {
  return { type: 'device', device, sequence, last, attempt };
}

/** Frames of the other role are of no importance here. */
export function example(type: FrameName): Frame {
  const fields = { round: 1, block: 0, runs: [0, 1], pages: 0, attempt: 1, device: 0, sequence: 0, last: false, id: 1 };
  const more = { deviceSequences: [0, 0], deviceResets: [0, 0], loadMs: 0, resumeMs: 0, sinceReadyMs: 0 };
  const rest = { incarnation: '1'.repeat(32), pagesCompared: 0, pagesDifferent: 0, differences: [], encoding: 'zstd' };
  const state = { state: 'receiving', runState: 'running', code: 'GODWIT_CANCELLED', message: '', retry: false };
  const welcomed = { version: 2, software: 'test', maximumPayload: 2 ** 20, maximumDeviceState: 2 ** 20 };
  return { ...hello(), ...fields, ...more, ...rest, ...state, ...welcomed, features: [], type } as unknown as Frame;
}

/** A source that saves by hand: the answers come in their order. */
export class Source {
  readonly link: MigrationLink;

  private constructor(link: MigrationLink) {
    this.link = link;
  }

  static async of(path: string, pageChannels = 0): Promise<Source> {
    return new Source(await connectTo(file({ path })).connect({ migrationId: ID, pageChannels, connection: 1 }, never));
  }

  async say(frame: Frame, payload?: Uint8Array): Promise<void> {
    await this.link.control.write(frame, payload === undefined ? [] : [payload]);
  }

  async hear<T extends FrameName>(type: T): Promise<Extract<Frame, { type: T }>> {
    const frame = (await this.link.control.read())?.frame;
    expect(frame?.type).toBe(type);
    return frame as Extract<Frame, { type: T }>;
  }

  async greet(more: Partial<HelloFrame> = {}): Promise<WelcomeFrame> {
    await this.say(hello(more));
    return this.hear('welcome');
  }

  /** One round of one page, acknowledged. */
  async round(round = 1): Promise<void> {
    await this.say({ type: 'pages', round, block: 0, runs: [round, 1] }, pageOf(round));
    await this.say({ type: 'roundEnd', round, pages: 1 });
    await this.hear('roundAck');
  }

  /** The state of both devices, with the guest paused. */
  async devices(attempt = 1): Promise<void> {
    for (const [device, state] of STATES.entries()) {
      await this.say(piece(device, 0, attempt), state);
      await this.say(piece(device, 1, attempt, true));
    }
  }

  async end(): Promise<void> {
    await this.link.control.close();
  }
}

/** Saves a guest frame by frame. */
export async function saved(path: string, runState: 'running' | 'paused' = 'running', more: Partial<HelloFrame> = {}) {
  const source = await Source.of(path);
  await source.greet(more);
  await source.round();
  await source.devices();
  await source.say({ type: 'switchover', round: 1, attempt: 1, runState });
  await source.hear('ready');
  await source.say({ type: 'go', attempt: 1 });
  await source.hear('running');
  await source.say({ type: 'released' });
  await source.end();
}

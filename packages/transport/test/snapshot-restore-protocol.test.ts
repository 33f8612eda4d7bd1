import { readFileSync, writeFileSync } from 'node:fs';
import {
  type Frame,
  type FrameName,
  type HelloFrame,
  type IncomingLink,
  isLegal,
  SOURCE_PHASES,
  type SourcePhaseName,
  type WelcomeFrame,
} from '@godwit/core';
import { file, LinkPhases, listenOn } from '@godwit/transport';
import { afterAll, describe, expect, test } from '@jest/globals';
import { forge, readMetadata } from './snapshot-forge.js';
import { example, ID, piece, STATES, saved, TYPES } from './snapshot-frames.js';
import { BLOCKS, snapshotFolder } from './snapshot-machine.js';

const never = new AbortController().signal;
const { newPath, close } = await snapshotFolder();
afterAll(close);

/** A destination that restores by hand. */
class Destination {
  readonly phases = new LinkPhases();

  private constructor(readonly link: IncomingLink) {}

  static async of(path: string, verify = false): Promise<Destination> {
    return new Destination(await (await listenOn(file({ path, verify, pageChannels: 0 }))).accept(never));
  }

  async say(frame: Frame): Promise<void> {
    this.phases.take(frame, 'destination');
    await this.link.control.write(frame);
  }

  /** The next frame; one that the source may not send fails the test. */
  async hear(): Promise<Frame> {
    const received = await this.link.control.read();
    const frame = received?.frame as Frame;
    expect(this.phases.take(frame, 'source')).toBeUndefined();
    if (received !== null && received.payloadBytes > 0) {
      await this.link.control.readPayload([new Uint8Array(received.payloadBytes)]);
    }
    return frame;
  }

  /** All frames up to one of this type. */
  async until<T extends FrameName>(type: T): Promise<[...Frame[], Extract<Frame, { type: T }>]> {
    const frames: Frame[] = [];
    do frames.push(await this.hear());
    while (frames.at(-1)?.type !== type);
    return frames as [...Frame[], Extract<Frame, { type: T }>];
  }

  async end(): Promise<void> {
    await this.link.control.close();
  }
}

const WELCOME: WelcomeFrame = {
  ...(example('welcome') as WelcomeFrame),
  features: ['verify'],
};
const READY: Frame = { type: 'ready', attempt: 1, loadMs: 1 };

async function toRound(destination: Destination): Promise<void> {
  await destination.until('hello');
  await destination.say(WELCOME);
  await destination.until('roundEnd');
}

async function toSwitchover(destination: Destination): Promise<Frame[]> {
  await toRound(destination);
  await destination.say({ type: 'roundAck', round: 1, pages: 1 });
  return destination.until('switchover');
}

async function toDigests(destination: Destination): Promise<void> {
  await toSwitchover(destination);
  await destination.say(READY);
  await destination.until('digestsEnd');
}

async function toGo(destination: Destination): Promise<Frame[]> {
  await toDigests(destination);
  await destination.say({ type: 'verified', pagesCompared: 1, pagesDifferent: 0, differences: [] });
  return destination.until('go');
}

/** Ways into the phases of a file that plays the source. */
const TO_SOURCE_PHASE: Readonly<Partial<Record<SourcePhaseName, (destination: Destination) => Promise<unknown>>>> = {
  greeting: (destination) => destination.until('hello'),
  'pre-copy': toRound,
  'stop-and-copy': async (destination) => {
    await toRound(destination);
    await destination.say({ type: 'roundAck', round: 1, pages: 1 });
    await destination.until('device');
  },
  loading: toSwitchover,
  verifying: toDigests,
  'handing-over': toGo,
  release: async (destination) => {
    await toGo(destination);
    await destination.say({ type: 'running', resumeMs: 1, sinceReadyMs: 1 });
    await destination.until('released');
  },
};

describe('a file as the source', () => {
  test('says how large its state really is, and hands on what the guest did: it stays paused', async () => {
    const path = newPath();
    await saved(path, 'paused', { attempt: 7, connection: 3 });
    const destination = await Destination.of(path, true);
    const greeting = (await destination.hear()) as HelloFrame;
    expect(greeting).toMatchObject({
      attempt: 1,
      connection: 1,
      stage: 'running',
      features: ['verify'],
      minimumVersion: 2,
      maximumVersion: 2,
      blocks: BLOCKS.map((block) => ({ ...block, identity: '' })),
      devices: [
        { id: 'vcpu', version: 1, stateBytes: STATES[0].length },
        { id: 'serial', version: 2, stateBytes: STATES[1].length },
      ],
    });
    expect(greeting.migrationId).not.toBe(ID);
    await destination.say(WELCOME);
    await destination.until('roundEnd');
    // A destination may say these unasked; a file has no use for them.
    await destination.say({ type: 'owed', block: 0, runs: [0, 1] });
    await destination.say({ type: 'loaded', device: 0, sequence: 0 });
    await destination.say({ type: 'roundAck', round: 1, pages: 1 });
    const devices = await destination.until('switchover');
    expect(devices.at(-1)).toEqual({ type: 'switchover', round: 1, attempt: 1, runState: 'paused' });
    expect(devices.slice(0, -1)).toEqual([piece(0, 0, 1), piece(1, 0, 1), piece(0, 1, 1, true), piece(1, 1, 1, true)]);
    await destination.say(READY);
    await destination.until('digestsEnd');
    await destination.say({ type: 'verified', pagesCompared: 1, pagesDifferent: 0, differences: [] });
    expect(await destination.hear()).toEqual({ type: 'go', attempt: 1 });
    await destination.say({ type: 'running', resumeMs: 1, sinceReadyMs: 2 });
    expect(await destination.hear()).toEqual({ type: 'released' });
    await destination.end();
  });

  test("does not say that its memory is somebody else's, whatever the file says", async () => {
    const path = newPath();
    await saved(path);
    const bytes = readFileSync(path);
    const metadata = readMetadata(bytes);
    for (const block of metadata.hello[6] as unknown[][]) block[3] = 'the memory of another';
    writeFileSync(path, forge(bytes, metadata));
    const destination = await Destination.of(path);
    const [greeting] = (await destination.until('hello')) as [HelloFrame];
    expect(greeting.blocks.map(({ identity }) => identity)).toEqual(['', '']);
    await destination.end();
  });

  test('of before there were run states is of a guest that ran, and its hello was shorter', async () => {
    const path = newPath();
    await saved(path, 'paused');
    const bytes = readFileSync(path);
    const metadata = readMetadata(bytes);
    const { runState, bitmapsSha256, ...older } = metadata;
    expect(bitmapsSha256).toHaveLength(32);
    expect(runState).toBe('paused');
    const cut = (list: unknown, length: number) => (list as unknown[][]).map((item) => item.slice(0, length));
    older.hello = older.hello.slice(0, 13).map((field, i) => {
      if (i === 6) return cut(field, 3);
      return i === 7 ? cut(field, 2) : field;
    });
    writeFileSync(path, forge(bytes, older));
    const destination = await Destination.of(path);
    expect((await toSwitchover(destination)).at(-1)).toMatchObject({ runState: 'running' });
    await destination.end();
  });

  test('does not begin where its devices would not fit', async () => {
    const path = newPath();
    await saved(path);
    const bytes = STATES[0].length + STATES[1].length;
    const destination = await Destination.of(path);
    await destination.until('hello');
    await destination.say({ ...WELCOME, maximumDeviceState: bytes - 1 });
    expect(await destination.hear()).toMatchObject({
      type: 'error',
      code: 'GODWIT_LIMIT_EXCEEDED',
      retry: false,
      message: expect.stringContaining(`have ${bytes} bytes of state, the destination takes ${bytes - 1}`),
    });
    await destination.end();
    const other = await Destination.of(path);
    await other.until('hello');
    await other.say({ ...WELCOME, maximumDeviceState: bytes });
    expect((await other.hear()).type).toBe('pages');
    await other.end();
  });

  test('has one attempt', async () => {
    const path = newPath();
    await saved(path);
    const destination = await Destination.of(path);
    await toSwitchover(destination);
    await destination.say({ ...READY, attempt: 2 } as Frame);
    await expect(destination.hear()).rejects.toMatchObject({ code: 'GODWIT_PROTOCOL' });
    await destination.end();
  });

  test.each(Object.keys(TO_SOURCE_PHASE) as SourcePhaseName[])(
    'takes nothing that the table forbids in phase "%s"',
    async (phase) => {
      const path = newPath();
      await saved(path);
      const illegal = TYPES.filter((type) => !isLegal('source', phase, type));
      expect(illegal.length).toBeGreaterThan(10);
      for (const type of illegal) {
        const destination = await Destination.of(path, true);
        await TO_SOURCE_PHASE[phase]?.(destination);
        const failed = { code: 'GODWIT_PROTOCOL', message: expect.stringContaining(`"${type}"`) };
        await expect(destination.link.control.write(example(type))).rejects.toMatchObject(failed);
        await destination.end();
      }
    },
  );
});

test('every phase that a file has is reached here', () => {
  // A file decides in the tick in which it is asked.
  expect(SOURCE_PHASES.filter((phase) => TO_SOURCE_PHASE[phase] === undefined)).toEqual([
    'deciding',
    'going-back',
    'post-copy',
  ]);
});

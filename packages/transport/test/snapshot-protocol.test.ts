import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import {
  DESTINATION_PHASES,
  type DestinationPhaseName,
  type DeviceFrame,
  FRAME_TYPES,
  type Frame,
  type FrameName,
  type HelloFrame,
  type IncomingLink,
  isLegal,
  type MigrationLink,
  SOURCE_PHASES,
  type SourcePhaseName,
  type WelcomeFrame,
} from '@godwit/core';
import { connectTo, file, LinkPhases, listenOn } from '@godwit/transport';
import { afterAll, describe, expect, test } from '@jest/globals';
import { forge, readMetadata, readSnapshot } from './snapshot-forge.js';
import { BLOCKS, PAGE, pageOf, partials, snapshotFolder } from './snapshot-machine.js';

const { folder, newPath, close } = await snapshotFolder();
afterAll(close);

/** All that a peer may ever say behind its hello. */
const TYPES = (Object.keys(FRAME_TYPES) as FrameName[]).filter((type) => type !== 'error');
const never = new AbortController().signal;
const ID = '00112233445566778899aabbccddeeff';
const STATES = [Buffer.from('the state of the vCPU'), Buffer.from('the serial port')] as const;

function hello(more: Partial<HelloFrame> = {}): HelloFrame {
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

function piece(device: number, sequence: number, attempt: number, last = false): DeviceFrame {
  return { type: 'device', device, sequence, last, attempt };
}

/** Frames of the other role are of no importance here. */
function example(type: FrameName): Frame {
  const fields = { round: 1, block: 0, runs: [0, 1], pages: 0, attempt: 1, device: 0, sequence: 0, last: false, id: 1 };
  const more = { deviceSequences: [0, 0], deviceResets: [0, 0], loadMs: 0, resumeMs: 0, sinceReadyMs: 0 };
  const rest = { incarnation: '1'.repeat(32), pagesCompared: 0, pagesDifferent: 0, differences: [], encoding: 'zstd' };
  const state = { state: 'receiving', runState: 'running', code: 'GODWIT_CANCELLED', message: '', retry: false };
  const welcomed = { version: 2, software: 'test', maximumPayload: 2 ** 20, maximumDeviceState: 2 ** 20 };
  return { ...hello(), ...fields, ...more, ...rest, ...state, ...welcomed, features: [], type } as unknown as Frame;
}

/** What a source would know of a file: the answers in their order. */
class Source {
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

/** Ways into the phases of a file that plays the destination. */
const TO_PHASE: Readonly<Partial<Record<DestinationPhaseName, (source: Source) => Promise<void>>>> = {
  greeting: async () => {},
  preparing: async (source) => void (await source.greet({ stage: 'dryRun' })),
  receiving: async (source) => void (await source.greet()),
  ready: async (source) => {
    await source.greet();
    await source.round();
    await source.devices();
    await source.say({ type: 'switchover', round: 1, attempt: 1, runState: 'running' });
    await source.hear('ready');
  },
  'taking-over': async (source) => {
    await TO_PHASE.ready?.(source);
    await source.say({ type: 'go', attempt: 1 });
    await source.hear('running');
  },
};

/** Saves a guest frame by frame. */
async function saved(path: string, runState: 'running' | 'paused' = 'running', more: Partial<HelloFrame> = {}) {
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

describe('a file as the destination', () => {
  test('agrees to verify alone, says who it is, and takes as much state as it holds', async () => {
    const welcomes: WelcomeFrame[] = [];
    for (let i = 0; i < 2; i++) {
      const source = await Source.of(newPath());
      welcomes.push(await source.greet());
      await source.end();
    }
    expect(welcomes).toMatchObject(
      new Array(2).fill({
        version: 2,
        features: ['verify'],
        incarnation: expect.stringMatching(/^[0-9a-f]{32}$/),
        maximumDeviceState: 2 ** 37,
      }),
    );
    expect(welcomes[0]?.incarnation).not.toBe(welcomes[1]?.incarnation);
    expect(partials(folder)).toEqual([]);
  });

  test('is prepared at once, takes pieces of pre-copy as they come, and names the attempt in its answers', async () => {
    const path = newPath();
    const source = await Source.of(path);
    const { incarnation } = await source.greet();
    await source.round();
    await source.say({ type: 'prepare', attempt: 3, deviceSequences: [0, 0] });
    expect(await source.hear('prepared')).toEqual({
      type: 'prepared',
      incarnation,
      attempt: 3,
      deviceSequences: [0, 0],
    });
    await Promise.all(
      [0, 1, 2].map((sequence) => source.say(piece(1, sequence, 0), Buffer.from(`early ${sequence};`))),
    );
    for (const sequence of [1, 2, 3]) {
      expect(await source.hear('loaded')).toEqual({ type: 'loaded', device: 1, sequence });
    }
    await source.say({ type: 'prepare', attempt: 3, deviceSequences: [0, 3] });
    expect(await source.hear('prepared')).toMatchObject({ deviceSequences: [0, 3] });
    await source.devices(3);
    await source.say({ type: 'switchover', round: 1, attempt: 3, runState: 'paused' });
    expect(await source.hear('ready')).toMatchObject({ attempt: 3, loadMs: expect.any(Number) });
    await source.say({ type: 'go', attempt: 3 });
    const { resumeMs, sinceReadyMs } = await source.hear('running');
    expect(sinceReadyMs).toBeGreaterThanOrEqual(resumeMs);
    await source.say({ type: 'released' });
    await source.end();

    const { devices, runState, ram } = readSnapshot(readFileSync(path));
    expect(devices.get('serial')?.toString()).toBe('early 0;early 1;early 2;the serial port');
    expect(devices.get('vcpu')?.toString()).toBe('the state of the vCPU');
    expect(runState).toBe('paused');
    expect(ram[0]?.subarray(PAGE, 2 * PAGE).equals(pageOf(1))).toBe(true);
  });

  test('keeps nothing of what memory it was', async () => {
    const path = newPath();
    await saved(path);
    const blocks = readMetadata(readFileSync(path)).hello[6] as unknown[][];
    expect(blocks.map(([, , , identity]) => identity)).toEqual(['', '']);
  });

  test('only says what it would take, where that is the question, and leaves no trace', async () => {
    const path = newPath();
    writeFileSync(path, 'an older snapshot');
    const source = await Source.of(path);
    expect(await source.greet({ stage: 'dryRun' })).toMatchObject({ features: ['verify'] });
    await source.end();
    expect([readFileSync(path, 'utf8'), partials(folder)]).toEqual(['an older snapshot', []]);
  });

  test.each(['paused', 'handedOver', 'kept'] as const)('knows no migration that is "%s"', async (stage) => {
    const source = await Source.of(newPath());
    await expect(source.say(hello({ stage }))).rejects.toMatchObject({ code: 'GODWIT_UNKNOWN_MIGRATION' });
    await source.end();
  });

  describe('takes nothing that the table forbids', () => {
    test.each(Object.keys(TO_PHASE) as DestinationPhaseName[])('in phase "%s"', async (phase) => {
      const illegal = TYPES.filter((type) => !isLegal('destination', phase, type));
      expect(illegal.length).toBeGreaterThan(10);
      for (const type of illegal) {
        const path = newPath();
        const source = await Source.of(path);
        await TO_PHASE[phase]?.(source);
        await expect(source.say(example(type))).rejects.toMatchObject({
          code: expect.stringMatching(/PROTOCOL|STATE/),
        });
        await source.end();
        expect([type, existsSync(path), partials(folder)]).toEqual([type, phase === 'taking-over', []]);
      }
    });

    test('nor pages on the control stream beside page channels, nor anything else on these', async () => {
      for (const [channel, frame] of [
        [false, example('zeroPages')],
        [true, piece(0, 0, 0)],
      ] as const) {
        const source = await Source.of(newPath(), 1);
        await source.greet({ pageChannels: 1 });
        const [stream] = source.link.pageChannels;
        await expect(channel ? stream?.write(frame) : source.say(frame)).rejects.toMatchObject({
          code: 'GODWIT_PROTOCOL',
        });
        await source.end();
      }
    });
  });

  const sends: readonly (readonly [string, (source: Source) => Promise<void>, RegExp])[] = [
    ['"back", to which it has not agreed', (s) => s.say({ type: 'back', attempt: 1 }), /takes no "back" frame/],
    ['deltas, likewise', (s) => s.say(example('deltaPages')), /takes no "deltaPages" frame/],
    [
      'a piece that is lost',
      async (s) => {
        await s.say(piece(0, 0, 0));
        await s.say(piece(0, 2, 0));
      },
      /piece 2 of device "vcpu" came, where piece 1 is next/,
    ],
    [
      'pieces that do not begin anew in the attempt',
      async (s) => {
        await s.say(piece(0, 0, 0));
        await s.say(piece(0, 1, 1));
      },
      /piece 1 of device "vcpu" came, where piece 0 is next/,
    ],
    [
      'a piece behind the last one',
      async (s) => {
        await s.say(piece(0, 0, 1, true));
        await s.say(piece(0, 1, 1));
      },
      /"vcpu" came after its last one/,
    ],
    [
      'a piece of pre-copy with the guest paused',
      async (s) => {
        await s.say(piece(0, 0, 1));
        await s.say(piece(1, 0, 0));
      },
      /device "serial" of pre-copy came in stop-and-copy 1/,
    ],
    [
      'two attempts',
      async (s) => {
        await s.say(piece(0, 0, 1));
        await s.say(piece(1, 0, 2));
      },
      /of stop-and-copy 2 came, where that of 1 is under way/,
    ],
    ['a device that there is not', (s) => s.say(piece(2, 0, 0)), /piece of device 2 came; the hello lists 2/],
    [
      'a question for pieces that have not come',
      (s) => s.say({ type: 'prepare', attempt: 1, deviceSequences: [1, 0] }),
      /names the pieces 1, 0, but 0, 0 came/,
    ],
    [
      'a question for other devices',
      (s) => s.say({ type: 'prepare', attempt: 1, deviceSequences: [0] }),
      /names the pieces 0, but 0, 0 came/,
    ],
    [
      'a switchover with a device half saved',
      async (s) => {
        await s.say(piece(0, 0, 1, true));
        await s.say(piece(1, 0, 1));
        await s.say({ type: 'switchover', round: 0, attempt: 1, runState: 'running' });
      },
      /before the end of the state of device "serial"/,
    ],
    [
      'a switchover of another round',
      async (s) => {
        await s.round();
        await s.devices();
        await s.say({ type: 'switchover', round: 2, attempt: 1, runState: 'running' });
      },
      /"switchover" of round 2 came after round 1/,
    ],
    [
      'a switchover of another attempt',
      async (s) => {
        await s.round();
        await s.devices();
        await s.say({ type: 'switchover', round: 1, attempt: 2, runState: 'running' });
      },
      /stop-and-copy 2 came, where that of 1/,
    ],
    [
      'a switchover of no attempt',
      async (s) => {
        await s.say({ type: 'switchover', round: 0, attempt: 0, runState: 'running' });
      },
      /stop-and-copy 0 came/,
    ],
    [
      'go of another attempt',
      async (s) => {
        await s.round();
        await s.devices();
        await s.say({ type: 'switchover', round: 1, attempt: 1, runState: 'running' });
        await s.say({ type: 'go', attempt: 2 });
      },
      /stop-and-copy 2 came, where that of 1/,
    ],
  ];
  test.each(sends)('refuses %s', async (_name, send, message) => {
    const path = newPath();
    const source = await Source.of(path);
    await source.greet();
    const refused = { code: 'GODWIT_PROTOCOL', message: expect.stringMatching(message) };
    await expect(send(source)).rejects.toMatchObject(refused);
    // Nor is anything taken behind it, above all no `go`.
    await expect(source.say({ type: 'go', attempt: 1 })).rejects.toMatchObject(refused);
    await source.end();
    expect([existsSync(path), partials(folder)]).toEqual([false, []]);
  });
});

/** What a destination would know of a file. */
class Destination {
  readonly phases = new LinkPhases();

  private constructor(readonly link: IncomingLink) {}

  static async of(path: string, verify = false): Promise<Destination> {
    return new Destination(await (await listenOn(file({ path, verify }))).accept(never));
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
    // What a destination may say unasked, and a file has no use for.
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

  test('of before there were run states is of a guest that ran, and its hello was shorter', async () => {
    const path = newPath();
    await saved(path, 'paused');
    const bytes = readFileSync(path);
    const metadata = readMetadata(bytes);
    const { runState, ...older } = metadata;
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
  // A file loads within its own call, keeps no guest, and does not go back.
  expect(DESTINATION_PHASES.filter((phase) => TO_PHASE[phase] === undefined)).toEqual(['loading', 'kept']);
  // What it decides, it decides at once.
  expect(SOURCE_PHASES.filter((phase) => TO_SOURCE_PHASE[phase] === undefined)).toEqual(['deciding', 'going-back']);
});

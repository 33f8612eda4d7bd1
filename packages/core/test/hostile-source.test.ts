import {
  type Frame,
  type FrameStream,
  type GodwitError,
  type HelloFrame,
  type IncomingMigration,
  receive,
} from '@godwit/core';
import { FaultyDevice, type MemoryLink, memoryLink, ToyVm, VirtualClock } from '@godwit/core/testing';
import { afterEach, describe, expect, test } from '@jest/globals';
import { BLOCKS, codeOf, PAGE } from './toy-migration.js';

/** Plays the source by hand against `receive`. */
class Hostile {
  readonly clock = new VirtualClock();
  readonly link: MemoryLink = memoryLink({ clock: this.clock, capacity: 64 });
  readonly vm = new ToyVm(BLOCKS, { running: false, devices: [new FaultyDevice('uart'), new FaultyDevice('rtc')] });
  readonly incoming: IncomingMigration;
  control!: FrameStream;
  pages: readonly FrameStream[] = [];
  heard: Frame[] = [];
  readonly lost: GodwitError[] = [];

  constructor(maximumDeviceState = 100_000) {
    const { link, clock, vm } = this;
    this.incoming = receive(link.listener, { prepare: () => vm, clock, maximumDeviceState });
    this.incoming.subscribe({
      next: (event) => void (event.type === 'link-lost' && this.lost.push(event.reason)),
      error: () => {},
    });
  }

  async connect(pageChannels = 0): Promise<void> {
    const link = await this.link.connector.connect(
      { migrationId: ID, pageChannels, connection: 1 },
      new AbortController().signal,
    );
    this.control = link.control;
    this.pages = link.pageChannels;
    void this.#listen(link.control);
  }

  async hello(change: Partial<HelloFrame> = {}): Promise<void> {
    const hello = { ...HELLO, ...change };
    await this.connect(
      Number.isInteger(hello.pageChannels) && hello.pageChannels < 8 ? Math.max(0, hello.pageChannels) : 0,
    );
    await this.send(hello);
  }

  /** Writes frames one after the other; a destination that has let go is no failure here. */
  async send(...frames: readonly (Frame | readonly [Frame, Uint8Array] | undefined)[]): Promise<void> {
    for (const item of frames) {
      if (item === undefined) continue;
      const [frame, payload] = Array.isArray(item) ? (item as [Frame, Uint8Array]) : [item as Frame, undefined];
      await this.control.write(frame, payload === undefined ? undefined : [payload]).catch(() => {});
    }
  }

  /** What the destination ended with; it must have let go of everything, and never have run the guest. */
  async refused(): Promise<string | undefined> {
    const [result] = await Promise.allSettled([this.incoming.result]);
    await this.control.close().catch(() => {});
    expect(this.vm.running).toBe(false);
    expect(this.vm.resumes).toBe(0);
    expect(this.incoming.state).toBe('failed');
    expect(this.link.openStreams).toBe(0);
    return codeOf(result as PromiseSettledResult<unknown>);
  }

  /** Why the link was dropped: a destination that is ready goes on waiting for another one. */
  async dropped(): Promise<string | undefined> {
    await this.clock.sleep(1);
    expect([this.incoming.ownership, this.vm.running, this.vm.resumes]).toEqual(['ready', false, 0]);
    expect(this.link.openStreams).toBe(0);
    return this.lost.at(-1)?.code;
  }

  async #listen(stream: FrameStream): Promise<void> {
    try {
      for (;;) {
        const received = await stream.read();
        if (received === null) return;
        this.heard.push(received.frame);
        if (received.frame.type === 'error') void stream.close();
      }
    } catch {
      // Dropped.
    }
  }
}

const ID = '0123456789abcdef0123456789abcdef';
const HELLO: HelloFrame = {
  type: 'hello',
  minimumVersion: 2,
  maximumVersion: 2,
  migrationId: ID,
  software: 'hostile/1',
  pageSize: PAGE,
  blocks: BLOCKS.map((block) => ({ ...block, identity: '' })),
  devices: [
    { id: 'uart', version: 1, stateBytes: 0 },
    { id: 'rtc', version: 1, stateBytes: 0 },
  ],
  features: ['verify'],
  pageChannels: 0,
  description: null,
  connection: 1,
  stage: 'running',
  attempt: 1,
};
const pages = (runs: readonly number[], bytes: number, change: object = {}) =>
  [{ type: 'pages', round: 1, block: 0, runs, ...change }, new Uint8Array(bytes).fill(7)] as unknown as readonly [
    Frame,
    Uint8Array,
  ];
const zero = (runs: readonly unknown[], change: object = {}) =>
  ({ type: 'zeroPages', round: 1, block: 0, runs, ...change }) as unknown as Frame;
const end = (count: number, round = 1): Frame => ({ type: 'roundEnd', round, pages: count });
/** A piece that comes while the guest runs; with an attempt, one of a stop-and-copy. */
const device = (index: number, sequence: number, last: boolean, bytes = 1, attempt = 0) =>
  [{ type: 'device', device: index, sequence, last, attempt } as const, new Uint8Array(bytes)] as const;
const DEVICES = [device(0, 0, true, 1, 1), device(1, 0, true, 1, 1)] as const;
const SWITCHOVER = { type: 'switchover', round: 1, attempt: 1, runState: 'running' } as const;
const GO: Frame = { type: 'go', attempt: 1 };
const READY = [pages([0, 1], PAGE), end(1), ...DEVICES, SWITCHOVER] as const;
const digests = (runs: readonly number[], bytes: number) =>
  [{ type: 'digests', block: 0, runs } as const, new Uint8Array(bytes)] as const;

let hostile: Hostile;
afterEach(() => void hostile.incoming.cancel());

describe('a hello that does not fit is refused before a page moves', () => {
  test.each<readonly [string, Partial<HelloFrame> | object, string]>([
    ['newer versions only', { minimumVersion: 3, maximumVersion: 4 }, 'GODWIT_VERSION_MISMATCH'],
    ['older versions only', { minimumVersion: 1, maximumVersion: 1 }, 'GODWIT_VERSION_MISMATCH'],
    ['no version at all', { minimumVersion: 0, maximumVersion: 0 }, 'GODWIT_VERSION_MISMATCH'],
    [
      'a version that is no number',
      { minimumVersion: Number.NaN, maximumVersion: Number.NaN },
      'GODWIT_VERSION_MISMATCH',
    ],
    ['another page size', { pageSize: 16384 }, 'GODWIT_PAGE_SIZE_MISMATCH'],
    ['another block size', { blocks: [{ ...HELLO.blocks[0], byteLength: 65 * PAGE }] }, 'GODWIT_MEMORY_MISMATCH'],
    [
      'another block address',
      { blocks: [{ ...HELLO.blocks[0], guestPhysicalAddress: PAGE }] },
      'GODWIT_MEMORY_MISMATCH',
    ],
    ['another block name', { blocks: [{ ...HELLO.blocks[0], id: 'rom' }] }, 'GODWIT_MEMORY_MISMATCH'],
    [
      'a block too many',
      { blocks: [...HELLO.blocks, { id: 'b', guestPhysicalAddress: 2 ** 32, byteLength: PAGE, identity: '' }] },
      'GODWIT_MEMORY_MISMATCH',
    ],
    ['no block', { blocks: [] }, 'GODWIT_MEMORY_MISMATCH'],
    ['a device that we lack', { devices: [...HELLO.devices, { id: 'nic', version: 1 }] }, 'GODWIT_DEVICE_MISMATCH'],
    ['a device that it lacks', { devices: HELLO.devices.slice(1) }, 'GODWIT_DEVICE_MISMATCH'],
    ['a device twice', { devices: [...HELLO.devices, HELLO.devices[0]] }, 'GODWIT_DEVICE_MISMATCH'],
    ['a newer device', { devices: [{ id: 'uart', version: 2 }, HELLO.devices[1]] }, 'GODWIT_DEVICE_MISMATCH'],
    ['an older device', { devices: [{ id: 'uart', version: 0 }, HELLO.devices[1]] }, 'GODWIT_DEVICE_MISMATCH'],
    ['a migration without a proper name', { migrationId: 'x' }, 'GODWIT_PROTOCOL'],
    ['too many page channels', { pageChannels: 65 }, 'GODWIT_LIMIT_EXCEEDED'],
    ['less than no page channels', { pageChannels: -1 }, 'GODWIT_LIMIT_EXCEEDED'],
    ['half a page channel', { pageChannels: 0.5 }, 'GODWIT_LIMIT_EXCEEDED'],
  ])('%s', async (_, change, code) => {
    hostile = new Hostile();
    await hostile.hello(change as Partial<HelloFrame>);
    expect(await hostile.refused()).toBe(code);
    expect(hostile.heard).toEqual([{ type: 'error', code, message: expect.any(String), retry: false }]);
  });

  test('another first frame: the peer is told, and the incoming migration waits on', async () => {
    hostile = new Hostile();
    await hostile.connect();
    await hostile.send(GO);
    await hear('error');
    expect(hostile.heard).toEqual([
      { type: 'error', code: 'GODWIT_PROTOCOL', message: expect.any(String), retry: false },
    ]);
    await servesAnother();
  });

  test('silence', async () => {
    hostile = new Hostile();
    await hostile.connect();
    await hear('error');
    expect(hostile.heard).toEqual([
      {
        type: 'error',
        code: 'GODWIT_TIMEOUT',
        message: expect.stringContaining('handshakeTimeoutMs (30000 ms)'),
        retry: true,
      },
    ]);
    expect(hostile.clock.now()).toBeLessThan(32_000);
    await servesAnother();
  });

  test('nothing but the end of the stream', async () => {
    hostile = new Hostile();
    await hostile.connect();
    void hostile.control.close();
    await servesAnother();
  });

  test('silent pending connections hold up nobody, and only so many may wait', async () => {
    hostile = new Hostile();
    for (let i = 0; i < 70; i++) await hostile.connect();
    await hear('error');
    await hostile.clock.sleep(10);
    const refused = hostile.heard.filter((frame) => frame.type === 'error');
    expect(refused).toHaveLength(6);
    expect(refused[0]).toMatchObject({ code: 'GODWIT_LIMIT_EXCEEDED' });
    // When their time is up, there is room again.
    await hostile.clock.sleep(31_000);
    await servesAnother();
    expect(hostile.clock.now()).toBeLessThan(40_000);
  });

  test('a feature that nobody knows is left out of the welcome', async () => {
    hostile = new Hostile();
    await hostile.hello({ features: ['teleport', 'verify'] });
    await hear('welcome');
    await hostile.send(GO);
    expect(await hostile.refused()).toBe('GODWIT_PROTOCOL');
    expect(hostile.heard[0]).toMatchObject({ type: 'welcome', version: 2, features: ['verify'] });
  });
});

test('a page before the welcome is refused: the VM may not exist yet', async () => {
  hostile = new Hostile();
  await hostile.hello();
  await hostile.send(pages([0, 1], PAGE));
  expect(await hostile.refused()).toBe('GODWIT_PROTOCOL');
});

test('a payload beyond the limit of a frame is refused, even of a device that may have more state', async () => {
  hostile = new Hostile(2 ** 30);
  await hostile.hello();
  await hear('welcome');
  await hostile.send(device(0, 0, false, 4 * 2 ** 20), device(0, 1, false, 4 * 2 ** 20 + 1));
  expect(await hostile.refused()).toBe('GODWIT_LIMIT_EXCEEDED');
});

describe('frames that are not allowed, or out of range, change no memory and end the incoming migration', () => {
  test.each<readonly [string, readonly (Frame | readonly [Frame, Uint8Array])[], string]>([
    ['pages past the end', [pages([63, 2], 2 * PAGE)], 'GODWIT_OUT_OF_RANGE'],
    ['pages far past the end', [pages([2 ** 52, 1], PAGE)], 'GODWIT_OUT_OF_RANGE'],
    ['an endless run', [zero([0, Number.POSITIVE_INFINITY])], 'GODWIT_PROTOCOL'],
    ['pages before the start', [pages([-1, 1], PAGE)], 'GODWIT_PROTOCOL'],
    ['half pages', [pages([0.5, 1], PAGE)], 'GODWIT_PROTOCOL'],
    ['a run that is no number', [zero([Number.NaN, Number.NaN])], 'GODWIT_PROTOCOL'],
    ['a run that is a string', [zero(['0', '1'])], 'GODWIT_PROTOCOL'],
    ['an unknown block', [pages([0, 1], PAGE, { block: 1 })], 'GODWIT_OUT_OF_RANGE'],
    ['a block before the first', [zero([0, 1], { block: -1 })], 'GODWIT_OUT_OF_RANGE'],
    ['overlapping runs', [pages([0, 2, 1, 1], 3 * PAGE)], 'GODWIT_PROTOCOL'],
    ['runs that descend', [pages([5, 1, 3, 1], 2 * PAGE)], 'GODWIT_PROTOCOL'],
    ['an empty run', [zero([3, 0])], 'GODWIT_PROTOCOL'],
    ['no run', [zero([])], 'GODWIT_PROTOCOL'],
    ['half a run', [zero([1])], 'GODWIT_PROTOCOL'],
    ['a payload too short', [pages([0, 2], PAGE)], 'GODWIT_PROTOCOL'],
    ['a payload too long', [pages([0, 1], PAGE + 1)], 'GODWIT_PROTOCOL'],
    ['a later round', [pages([0, 1], PAGE, { round: 2 })], 'GODWIT_PROTOCOL'],
    ['an earlier round', [pages([0, 1], PAGE), end(1), pages([0, 1], PAGE)], 'GODWIT_PROTOCOL'],
    ['a round that ends with other counts', [pages([0, 1], PAGE), end(2)], 'GODWIT_PROTOCOL'],
    ['a round that ends early', [end(0, 2)], 'GODWIT_PROTOCOL'],
    ['an unknown device', [device(2, 0, true)], 'GODWIT_OUT_OF_RANGE'],
    ['a piece of device state too early', [device(0, 1, false)], 'GODWIT_PROTOCOL'],
    ['a piece of device state twice', [device(0, 0, false), device(0, 0, false)], 'GODWIT_PROTOCOL'],
    ['the end of device state while the guest runs', [device(0, 0, true)], 'GODWIT_PROTOCOL'],
    ['device state after its end', [device(0, 0, true, 1, 1), device(0, 1, true, 1, 1)], 'GODWIT_PROTOCOL'],
    ['device state that goes on before the pause', [device(0, 0, false, 1, 1), device(0, 0, false)], 'GODWIT_PROTOCOL'],
    ['device state of an attempt to come', [device(0, 0, false, 1, 2)], 'GODWIT_PROTOCOL'],
    ['device state before the first attempt', [device(0, 0, false, 1, -1)], 'GODWIT_PROTOCOL'],
    [
      'more device state than agreed',
      [device(0, 0, false, 60_000, 1), device(0, 1, false, 60_000, 1)],
      'GODWIT_LIMIT_EXCEEDED',
    ],
    [
      'switchover of an attempt to come',
      [pages([0, 1], PAGE), end(1), ...DEVICES, { ...SWITCHOVER, attempt: 2 }],
      'GODWIT_PROTOCOL',
    ],
    [
      'a question about an attempt to come',
      [{ type: 'prepare', attempt: 2, deviceSequences: [0, 0] }],
      'GODWIT_PROTOCOL',
    ],
    ['going back from an attempt to come', [{ type: 'back', attempt: 2 }], 'GODWIT_PROTOCOL'],
    [
      'going back twice from one attempt',
      [
        { type: 'back', attempt: 1 },
        { type: 'back', attempt: 1 },
      ],
      'GODWIT_PROTOCOL',
    ],
    [
      'switchover before any round',
      [...DEVICES, { type: 'switchover', round: 0, attempt: 1, runState: 'running' }],
      'GODWIT_PROTOCOL',
    ],
    [
      'switchover of a round to come',
      [...DEVICES, { type: 'switchover', round: 1, attempt: 1, runState: 'running' }],
      'GODWIT_PROTOCOL',
    ],
    [
      'switchover in the middle of a round',
      [pages([0, 1], PAGE), end(1), ...DEVICES, pages([0, 1], PAGE, { round: 2 }), SWITCHOVER],
      'GODWIT_PROTOCOL',
    ],
    ['switchover before a device', [pages([0, 1], PAGE), end(1), DEVICES[0], SWITCHOVER], 'GODWIT_PROTOCOL'],
    [
      'switchover in the middle of a device',
      [pages([0, 1], PAGE), end(1), DEVICES[0], device(1, 0, false, 1, 1), SWITCHOVER],
      'GODWIT_PROTOCOL',
    ],
    ['go at once', [GO], 'GODWIT_PROTOCOL'],
    ['go after a round', [pages([0, 1], PAGE), end(1), GO], 'GODWIT_PROTOCOL'],
    ['pages after switchover', [...READY, pages([0, 1], PAGE, { round: 2 })], 'GODWIT_PROTOCOL'],
    ['device state after switchover', [...READY, device(0, 1, true)], 'GODWIT_PROTOCOL'],
    ['switchover twice', [...READY, SWITCHOVER], 'GODWIT_PROTOCOL'],
    ['a second hello', [HELLO], 'GODWIT_PROTOCOL'],
    ['what only a destination says', [{ type: 'ready', attempt: 1, loadMs: 0 }], 'GODWIT_PROTOCOL'],
    ['attach on the control stream', [{ type: 'attach', migrationId: ID, index: 0, connection: 1 }], 'GODWIT_PROTOCOL'],
    ['an error', [{ type: 'error', code: 'GODWIT_DEVICE_FAILED', message: 'x', retry: false }], 'GODWIT_DEVICE_FAILED'],
    [
      'an error with a code of the future',
      [{ type: 'error', code: 'GODWIT_FLUX', message: 'x', retry: false }],
      'GODWIT_INTERNAL',
    ],
  ])('%s', async (_, frames, code) => {
    hostile = new Hostile();
    await hostile.hello();
    await hear('welcome');
    const untouched = frames.length === 1;
    await hostile.send(...frames);
    expect(await hostile.refused()).toBe(code);
    expect(hostile.vm.abandoned).toMatchObject({ code });
    if (untouched) expect(hostile.vm.memory.blocks[0]?.bytes.every((byte) => byte === 0)).toBe(true);
    const told = hostile.heard.at(-1);
    if (frames[0] !== undefined && (frames[0] as Frame).type !== 'error')
      expect(told).toMatchObject({ type: 'error', code });
  });
});

/** An honest source is welcome after whatever came before it. */
async function servesAnother(): Promise<void> {
  expect(hostile.incoming.state).toBe('none');
  hostile.heard = [];
  await hostile.hello();
  await hear('welcome');
  hostile.incoming.cancel();
  await Promise.allSettled([hostile.incoming.result]);
}

/** Resolves when the destination has said this. */
async function hear(type: Frame['type']): Promise<void> {
  while (!hostile.heard.some((frame) => frame.type === type)) {
    await hostile.clock.sleep(1);
    if (hostile.clock.now() > 60_000) throw new Error(`"${type}" never came, but ${JSON.stringify(hostile.heard)}`);
  }
}

describe('after ready', () => {
  test.each<readonly [string, readonly (Frame | readonly [Frame, Uint8Array])[], string]>([
    ['go after a comparison that failed', [{ type: 'digestsEnd' }, GO], 'GODWIT_PROTOCOL'],
    ['go in the middle of a comparison', [digests([0, 1], 8), GO], 'GODWIT_PROTOCOL'],
    ['a second comparison', [{ type: 'digestsEnd' }, { type: 'digestsEnd' }], 'GODWIT_PROTOCOL'],
    ['digests out of range', [digests([63, 2], 16)], 'GODWIT_OUT_OF_RANGE'],
    ['digests of another size', [digests([0, 2], 15)], 'GODWIT_PROTOCOL'],
    ['pages', [pages([0, 1], PAGE, { round: 2 })], 'GODWIT_PROTOCOL'],
    ['go of an attempt to come', [{ type: 'go', attempt: 2 }], 'GODWIT_PROTOCOL'],
    ['going back from an attempt to come', [{ type: 'back', attempt: 2 }], 'GODWIT_PROTOCOL'],
    ['a question', [{ type: 'prepare', attempt: 1, deviceSequences: [0, 0] }], 'GODWIT_PROTOCOL'],
  ])('%s', async (_, frames, code) => {
    hostile = new Hostile();
    await hostile.hello();
    await hear('welcome');
    await hostile.send(...READY);
    await hear('ready');
    for (const frame of frames) {
      await hostile.send(frame);
      await hostile.clock.sleep(1);
    }
    expect(await hostile.dropped()).toBe(code);
  });

  test('digests that were not agreed on', async () => {
    hostile = new Hostile();
    await hostile.hello({ features: [] });
    await hear('welcome');
    await hostile.send(...READY);
    await hear('ready');
    await hostile.send({ type: 'digestsEnd' });
    expect(await hostile.dropped()).toBe('GODWIT_PROTOCOL');
  });

  test("go of an attempt that was given up: nobody runs, and the guest is the source's", async () => {
    hostile = new Hostile();
    await hostile.hello();
    await hear('welcome');
    await hostile.send(...READY);
    await hear('ready');
    await hostile.send({ type: 'back', attempt: 1 });
    await hear('backAck');
    expect(hostile.incoming.ownership).toBe('receiving');
    await hostile.send(GO);
    expect(await hostile.refused()).toBe('GODWIT_PROTOCOL');
  });

  test('go that did not wait for ready', async () => {
    hostile = new Hostile();
    hostile.vm.devices = [new FaultyDevice('uart', undefined, { hangLoad: true }), new FaultyDevice('rtc')];
    await hostile.hello();
    await hear('welcome');
    await hostile.send(...READY, GO);
    expect(await hostile.refused()).toBe('GODWIT_PROTOCOL');
  });

  test('the well-behaved source is served', async () => {
    hostile = new Hostile();
    await hostile.hello();
    await hear('welcome');
    await hostile.send(...READY);
    await hear('ready');
    await hostile.send(GO);
    await hear('running');
    void hostile.control.close();
    const { summary } = await hostile.incoming.result;
    expect(summary).toMatchObject({ rounds: 1, pages: { raw: 1, zero: 0 }, verified: false });
    expect(hostile.vm.running).toBe(true);
  });
});

describe('page channels', () => {
  const twoChannels = async () => {
    hostile = new Hostile();
    await hostile.hello({ pageChannels: 2 });
    await hear('welcome');
    return hostile.pages as readonly [FrameStream, FrameStream];
  };

  test('pages on the control stream are refused when there are page channels', async () => {
    await twoChannels();
    await hostile.send(pages([0, 1], PAGE));
    expect(await hostile.refused()).toBe('GODWIT_PROTOCOL');
  });

  test('anything else on a page channel is refused', async () => {
    const [first] = await twoChannels();
    await first.write(GO);
    expect(await hostile.refused()).toBe('GODWIT_PROTOCOL');
  });

  test('a channel that has ended the round sends no more of it', async () => {
    const [first] = await twoChannels();
    await first.write(end(0));
    await first.write(zero([0, 1]));
    expect(await hostile.refused()).toBe('GODWIT_PROTOCOL');
  });

  test('a channel that ends too early is noticed, though the control stream stays', async () => {
    const [first] = await twoChannels();
    void first.close();
    expect(await hostile.refused()).toBe('GODWIT_LINK_LOST');
  });

  test('the reason that follows on the control stream is what counts', async () => {
    const [first] = await twoChannels();
    void first.close();
    await hostile.clock.sleep(300);
    await hostile.send({ type: 'error', code: 'GODWIT_OUT_OF_MEMORY', message: 'no room', retry: false });
    expect(await hostile.refused()).toBe('GODWIT_OUT_OF_MEMORY');
  });

  test('a page frame on its way when switchover comes is not written into a guest that is about to run', async () => {
    const [first, second] = await twoChannels();
    await first.write(end(0));
    await second.write(end(0));
    await hear('roundAck');
    await hostile.send(...DEVICES);
    // The payload follows the frame later, as on a socket; the control stream overtakes it.
    await Promise.all([
      first.write(...(([frame, payload]) => [frame, [payload]] as const)(pages([0, 1], PAGE, { round: 2 }))),
      hostile.send(SWITCHOVER),
    ]);
    expect(await hostile.refused()).toBe('GODWIT_PROTOCOL');
  });

  test('a page frame after go is not written into the running guest', async () => {
    const [first, second] = await twoChannels();
    await first.write(end(0));
    await second.write(end(0));
    await hear('roundAck');
    await hostile.send(...DEVICES, SWITCHOVER);
    await hear('ready');
    await Promise.all([hostile.send(GO), hear('running')]);
    await first
      .write(...(([frame, payload]) => [frame, [payload]] as const)(pages([0, 1], PAGE, { round: 2 })))
      .catch(() => {});
    void Promise.all([hostile.control, ...hostile.pages].map((stream) => stream.close()));
    await hostile.incoming.result;
    expect(hostile.vm.memory.blocks[0]?.bytes[0]).toBe(0);
  });
});

test('a source that says nothing more can be refused at any time', async () => {
  hostile = new Hostile();
  await hostile.hello();
  await hear('welcome');
  expect(hostile.incoming.cancel('enough')).toBe(true);
  expect(hostile.incoming.cancel('enough')).toBe(false);
  expect(await hostile.refused()).toBe('GODWIT_CANCELLED');
  expect(hostile.heard.at(-1)).toMatchObject({ type: 'error', code: 'GODWIT_CANCELLED' });
});

test('ping is answered in every phase', async () => {
  hostile = new Hostile();
  await hostile.hello();
  await hostile.send({ type: 'ping', id: 1 });
  await hear('welcome');
  await hostile.send(...READY, { type: 'ping', id: 2 });
  await hear('ready');
  await hostile.send({ type: 'ping', id: 3 });
  while (hostile.heard.filter((frame) => frame.type === 'pong').length < 3) await hostile.clock.sleep(1);
  expect(hostile.heard.filter((frame) => frame.type === 'pong')).toEqual([1, 2, 3].map((id) => ({ type: 'pong', id })));
  // Everything is loaded, so it waits for `go`, link or no link, until somebody decides.
  void hostile.control.close();
  await hostile.clock.sleep(1e6);
  expect(hostile.incoming.ownership).toBe('ready');
  expect(hostile.incoming.cancel()).toBe(true);
  await Promise.allSettled([hostile.incoming.result]);
});

import { claimOf, type Frame } from '@godwit/core';
import { FaultyDevice, type ToyVm, type VirtualClock } from '@godwit/core/testing';
import { afterEach, describe, expect, test } from '@jest/globals';
import { device, end, GO, type HELLO, ID, PlayedSource, pages, READY, SWITCHOVER } from './played-source.js';
import { PAGE } from './toy-migration.js';

type Sent = Frame | readonly [Frame, Uint8Array];

let played: PlayedSource;
afterEach(async () => {
  played.incoming.cancel();
  await played.clock.sleep(1);
  await played.control.close().catch(() => {});
});

/** A device whose load takes so long, and that notes when it has ended. */
function slow(id: string, ms: number, clock: VirtualClock): FaultyDevice & { loadedAt: number } {
  const plain = new FaultyDevice(id);
  const load = plain.load.bind(plain);
  return Object.assign(plain, {
    loadedAt: -1,
    async load(this: { loadedAt: number }, state: AsyncIterable<Uint8Array>) {
      await load(state);
      await clock.sleep(ms);
      this.loadedAt = clock.now();
    },
  });
}

/** Starts a destination whose guest takes 5 ms to start. */
function begin(...options: ConstructorParameters<typeof PlayedSource>): { clock: VirtualClock; vm: ToyVm } {
  played = new PlayedSource(...options);
  const { clock, vm } = played;
  vm.onResume = () => clock.sleep(5);
  return { clock, vm };
}

async function welcomed(change: Partial<typeof HELLO> = {}): Promise<void> {
  await played.hello(change);
  await played.hear('welcome');
}

describe('a whole migration', () => {
  test('each answer of the destination has the times and the numbers that it is to have', async () => {
    const { clock, vm } = begin(100_000, { progressIntervalMs: 0 });
    const uart = slow('uart', 7, clock);
    vm.devices = [uart, new FaultyDevice('rtc')];
    await welcomed();
    expect(claimOf(vm)).toMatchObject({ state: 'arriving', migrationId: ID });
    await played.send(...READY);
    await clock.sleep(1);
    expect(claimOf(vm).waitingFor).toEqual(['load() of a device']);
    await played.hear('ready');
    await clock.sleep(11);
    const streams = played.link.openStreams;
    await played.send(GO);
    await played.hear('running');
    const runsAt = clock.now();
    await played.send({ type: 'released' });
    const { summary, vm: received } = await played.incoming.result;
    expect([streams, played.link.openStreams]).toEqual([2, 0]);
    const times = { resumeMs: 5, sinceReadyMs: expect.any(Number) };
    expect(played.heard).toEqual([
      {
        type: 'welcome',
        version: 2,
        features: ['verify'],
        software: expect.stringMatching(/^godwit\//),
        maximumPayload: 4 * 2 ** 20,
        incarnation: expect.stringMatching(/^[0-9a-f]{32}$/),
        maximumDeviceState: 100_000,
      },
      { type: 'roundAck', round: 1, pages: 1 },
      { type: 'ready', attempt: 1, loadMs: 7 },
      { type: 'running', ...times },
    ]);
    const [{ sinceReadyMs } = { sinceReadyMs: 0 }] = played.heardOf('running');
    expect(sinceReadyMs).toBeGreaterThanOrEqual(16);
    expect(sinceReadyMs).toBeLessThanOrEqual(runsAt - uart.loadedAt);
    const told = {
      migrationId: ID,
      rounds: 1,
      pages: { raw: 1, zero: 0, delta: 0, compressed: 0 },
      wireBytes: expect.any(Number),
      loadMs: 7,
      resumeMs: 5,
      verified: false,
      runState: 'running',
    };
    expect(summary).toEqual(told);
    expect(received).toBe(vm);
    expect(played.events).toEqual([
      { type: 'state', state: 'setup', previous: 'none' },
      { type: 'hello', migrationId: ID, peer: 'memory', description: null, dryRun: false },
      { type: 'state', state: 'active', previous: 'setup' },
      { type: 'round', round: 1, pages: 1 },
      { type: 'ownership', ownership: 'ready', previous: 'receiving' },
      { type: 'ownership', ownership: 'asking', previous: 'ready' },
      { type: 'ownership', ownership: 'running', previous: 'asking' },
      { type: 'state', state: 'device', previous: 'active' },
      { type: 'running', resumeMs: 5 },
      { type: 'ownership', ownership: 'settled', previous: 'running' },
      { type: 'state', state: 'completed', previous: 'device' },
      { type: 'completed', summary: told },
    ]);
    expect(claimOf(vm).state).toBe('idle');
  });

  test('a guest that is to arrive paused is not started, and that is what the summary says', async () => {
    const { vm } = begin(100_000, { onArrival: 'pause' });
    await welcomed();
    await played.send(...READY);
    await played.hear('ready');
    await played.send(GO);
    await played.hear('running');
    await played.send({ type: 'released' });
    expect((await played.incoming.result).summary.runState).toBe('paused');
    expect([vm.running, vm.resumes]).toEqual([false, 0]);
  });

  test('a guest that was paused at the source is not started', async () => {
    const { vm } = begin();
    await welcomed();
    await played.send(...READY.slice(0, -1), { ...SWITCHOVER, runState: 'paused' });
    await played.hear('ready');
    await played.send(GO);
    await played.hear('running');
    await played.send({ type: 'released' });
    expect((await played.incoming.result).summary.runState).toBe('paused');
    expect(vm.resumes).toBe(0);
  });
});

describe('the welcome', () => {
  const ALL = ['verify', 'back', 'probe', 'bitmap', 'shared', 'deviceChannels', 'loadEarly', 'checksum'];

  test.each([
    [true, ALL],
    [false, ALL.slice(0, -1)],
  ])(
    'agrees on checksums where the stream has them (%s), and on nothing that it does not know',
    async (sums, features) => {
      begin();
      played.checksums = sums;
      await welcomed({ features: [...ALL, 'flux'] });
      expect(played.heardOf('welcome')).toMatchObject([{ features }]);
    },
  );

  test('leaves out an encoding that receive was not given, and the embedder is warned', async () => {
    begin();
    await welcomed({ features: ['verify', 'encoding:brotli', 'encoding:delta'] });
    expect(played.heardOf('welcome')).toMatchObject([{ features: ['verify', 'encoding:delta'] }]);
    expect(played.eventsOf('warning')).toEqual([
      {
        type: 'warning',
        code: 'GODWIT_UNSUPPORTED',
        message: 'the source offers the encoding "brotli", which receive was not given',
      },
    ]);
  });
});

describe('frames that carry far too much', () => {
  const huge = (frame: Frame) => [frame, new Uint8Array(4 * 2 ** 20 + 1)] as const;

  test('"go" with more payload than a frame may have is not obeyed', async () => {
    begin();
    await welcomed();
    await played.send(...READY);
    await played.hear('ready');
    await played.send(huge(GO));
    expect(await played.dropped()).toBe('GODWIT_LIMIT_EXCEEDED');
  });

  test('neither is "back" while devices load', async () => {
    const { vm, clock } = begin();
    vm.devices = [slow('uart', 50, clock), new FaultyDevice('rtc')];
    await welcomed();
    await played.send(...READY, huge({ type: 'back', attempt: 1 }));
    expect(await played.refused()).toBe('GODWIT_LIMIT_EXCEEDED');
    expect(played.heardOf('backAck')).toEqual([]);
  });

  test('a probe of the agreed size is read, and a larger one refused', async () => {
    begin();
    await welcomed({ features: ['probe'] });
    await played.send([{ type: 'probe' }, new Uint8Array(4 * 2 ** 20)], { type: 'ping', id: 9 });
    await played.hear('pong');
    await played.send(huge({ type: 'probe' }));
    expect(await played.refused()).toBe('GODWIT_LIMIT_EXCEEDED');
  });
});

describe('a frame of another attempt is refused, and the message says which', () => {
  const BACK = { type: 'back', attempt: 3 } as const;
  const NUMBERS = [0, 0];

  test.each<readonly [string, readonly Sent[], string]>([
    ['back', [BACK], '"back" is for attempt 3, but the source is in attempt 1'],
    ['prepare', [{ type: 'prepare', attempt: 3, deviceSequences: NUMBERS }], '"prepare" is for attempt 3, but'],
    ['switchover', [pages([0, 1], PAGE), end(1), { ...SWITCHOVER, attempt: 3 }], '"switchover" is for attempt 3, but'],
    [
      'awaitPieces',
      [{ type: 'awaitPieces', id: 1, attempt: 3, deviceSequences: NUMBERS }],
      '"awaitPieces" is for attempt 3, but',
    ],
    [
      'loadEarly',
      [{ type: 'loadEarly', attempt: 3, device: 0, deviceSequences: NUMBERS }],
      '"loadEarly" is for attempt 3, but',
    ],
  ])('%s', async (_, frames, message) => {
    begin();
    await welcomed({ features: ['back', 'deviceChannels', 'loadEarly'], pageChannels: 0 });
    await played.send(...frames);
    expect(await played.refused()).toBe('GODWIT_PROTOCOL');
    expect(played.heard.at(-1)).toMatchObject({ type: 'error', message: expect.stringContaining(message) });
  });

  test.each<readonly [string, Frame]>([
    ['back', BACK],
    ['go', { type: 'go', attempt: 3 }],
  ])('%s, once everything is loaded', async (type, frame) => {
    begin();
    await welcomed();
    await played.send(...READY);
    await played.hear('ready');
    await played.send(frame);
    expect(await played.dropped()).toBe('GODWIT_PROTOCOL');
    expect(played.lost.at(-1)?.message).toBe(`"${type}" is for attempt 3; attempt 1 is loaded here`);
  });
});

test('pages on the control stream are refused beside a single page channel too', async () => {
  begin();
  await welcomed({ pageChannels: 1 });
  await played.send(pages([0, 1], PAGE));
  expect(await played.refused()).toBe('GODWIT_PROTOCOL');
});

test('state that a device has loaded is reported', async () => {
  begin();
  await welcomed();
  await played.send(device(0, 0, false));
  await played.hear('loaded');
  expect(played.heardOf('loaded')).toEqual([{ type: 'loaded', device: 0, sequence: 1 }]);
});

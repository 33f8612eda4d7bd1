import type { Frame, FrameStream } from '@godwit/core';
import { FaultyDevice } from '@godwit/core/testing';
import { afterEach, describe, expect, test } from '@jest/globals';
import {
  DEVICES,
  device,
  digests,
  end,
  GO,
  HELLO,
  ID,
  PlayedSource,
  pages,
  READY,
  SWITCHOVER,
  zero,
} from './played-source.js';
import { PAGE } from './toy-migration.js';

let hostile: PlayedSource;
afterEach(() => void hostile.incoming.cancel());

test('a page before the welcome is refused: the VM may not exist yet', async () => {
  hostile = new PlayedSource();
  await hostile.hello();
  await hostile.send(pages([0, 1], PAGE));
  expect(await hostile.refused()).toBe('GODWIT_PROTOCOL');
});

test('a payload beyond the limit of a frame is refused, even of a device that may have more state', async () => {
  hostile = new PlayedSource(2 ** 30);
  await hostile.hello();
  await hostile.hear('welcome');
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
    hostile = new PlayedSource();
    await hostile.hello();
    await hostile.hear('welcome');
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
    hostile = new PlayedSource();
    await hostile.hello();
    await hostile.hear('welcome');
    await hostile.send(...READY);
    await hostile.hear('ready');
    for (const frame of frames) {
      await hostile.send(frame);
      await hostile.clock.sleep(1);
    }
    expect(await hostile.dropped()).toBe(code);
  });

  test('digests that were not agreed on', async () => {
    hostile = new PlayedSource();
    await hostile.hello({ features: [] });
    await hostile.hear('welcome');
    await hostile.send(...READY);
    await hostile.hear('ready');
    await hostile.send({ type: 'digestsEnd' });
    expect(await hostile.dropped()).toBe('GODWIT_PROTOCOL');
  });

  test("go of an attempt that was given up: nobody runs, and the guest is the source's", async () => {
    hostile = new PlayedSource();
    await hostile.hello();
    await hostile.hear('welcome');
    await hostile.send(...READY);
    await hostile.hear('ready');
    await hostile.send({ type: 'back', attempt: 1 });
    await hostile.hear('backAck');
    expect(hostile.incoming.ownership).toBe('receiving');
    await hostile.send(GO);
    expect(await hostile.refused()).toBe('GODWIT_PROTOCOL');
  });

  test('go that did not wait for ready', async () => {
    hostile = new PlayedSource();
    hostile.vm.devices = [new FaultyDevice('uart', undefined, { hangLoad: true }), new FaultyDevice('rtc')];
    await hostile.hello();
    await hostile.hear('welcome');
    await hostile.send(...READY, GO);
    expect(await hostile.refused()).toBe('GODWIT_PROTOCOL');
  });

  test('the well-behaved source is served', async () => {
    hostile = new PlayedSource();
    await hostile.hello();
    await hostile.hear('welcome');
    await hostile.send(...READY);
    await hostile.hear('ready');
    await hostile.send(GO);
    await hostile.hear('running');
    void hostile.control.close();
    const { summary } = await hostile.incoming.result;
    expect(summary).toMatchObject({ rounds: 1, pages: { raw: 1, zero: 0 }, verified: false });
    expect(hostile.vm.running).toBe(true);
  });
});

describe('page channels', () => {
  const twoChannels = async () => {
    hostile = new PlayedSource();
    await hostile.hello({ pageChannels: 2 });
    await hostile.hear('welcome');
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
    await hostile.hear('roundAck');
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
    await hostile.hear('roundAck');
    await hostile.send(...DEVICES, SWITCHOVER);
    await hostile.hear('ready');
    await Promise.all([hostile.send(GO), hostile.hear('running')]);
    await first
      .write(...(([frame, payload]) => [frame, [payload]] as const)(pages([0, 1], PAGE, { round: 2 })))
      .catch(() => {});
    void Promise.all([hostile.control, ...hostile.pages].map((stream) => stream.close()));
    await hostile.incoming.result;
    expect(hostile.vm.memory.blocks[0]?.bytes[0]).toBe(0);
  });
});

test('a source that says nothing more can be refused at any time', async () => {
  hostile = new PlayedSource();
  await hostile.hello();
  await hostile.hear('welcome');
  expect(hostile.incoming.cancel('enough')).toBe(true);
  expect(hostile.incoming.cancel('enough')).toBe(false);
  expect(await hostile.refused()).toBe('GODWIT_CANCELLED');
  expect(hostile.heard.at(-1)).toMatchObject({ type: 'error', code: 'GODWIT_CANCELLED' });
});

test('ping is answered in every phase', async () => {
  hostile = new PlayedSource();
  await hostile.hello();
  await hostile.send({ type: 'ping', id: 1 });
  await hostile.hear('welcome');
  await hostile.send(...READY, { type: 'ping', id: 2 });
  await hostile.hear('ready');
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

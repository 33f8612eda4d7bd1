import type { GodwitError, MigratableDevice } from '@godwit/core';
import { ToyVm, VirtualClock } from '@godwit/core/testing';
import { expect, test } from '@jest/globals';
import { begin, big, MB } from './big-device.js';
import { BLOCKS, expectMoved, expectStayed, filledVm, start } from './toy-migration.js';

/** Device state over several streams: how many bytes it takes, and how much room. */

const BOUND = 16 * 2 ** 20;
/** Pieces in flight on the streams of a test's link: written, and not yet read. */
const ON_THE_WAY = 8 * 2 ** 20;

test.each([
  ['an iterative device', 0, { live: 300 }, {}],
  ['an iterative device', 4, { live: 300 }, {}],
  ['a stop-only device, by force', 0, {}, { force: true }],
  ['a stop-only device, by force', 4, {}, { force: true }],
  ['a stop-only device, with a limit of 600 s', 4, {}, { downtimeLimitMs: 600_000 }],
])('%s of 300 MB at 1 MB/s, over %i page channels, completes', async (_, pageChannels, device, options) => {
  const clock = new VirtualClock();
  const gpu = big(clock, { megabytes: 300, ...device });
  const { toy, held } = begin(clock, [gpu], {
    link: { bytesPerSecond: MB },
    migrate: { pageChannels, ...options },
    receive: { maximumDeviceState: BOUND },
  });
  expectMoved(toy, await toy.settled());
  expect([gpu.seen.bytes, gpu.seen.wrong, gpu.seen.loads]).toEqual([300 * MB + 4, 0, 1]);
  expect(held.most).toBeLessThanOrEqual(BOUND + ON_THE_WAY);
});

test.each([0, 1, 4, 64])(
  'a device that loads at a tenth of the link, over %i page channels: no more is held than was agreed',
  async (pageChannels) => {
    for (const live of [0, 150]) {
      const clock = new VirtualClock();
      const gpu = big(clock, { megabytes: 200, live, loadMs: 100 });
      const { toy, held } = begin(clock, [gpu], {
        link: { bytesPerSecond: 100 * MB },
        migrate: { pageChannels, force: true, switchoverTimeoutMs: 600_000 },
        receive: { maximumDeviceState: BOUND },
      });
      expectMoved(toy, await toy.settled());
      expect([live, gpu.seen.bytes, gpu.seen.wrong]).toEqual([live, 200 * MB + 4, 0]);
      expect(held.most).toBeLessThanOrEqual(BOUND + (pageChannels + 4) * 2 ** 20);
      expect(clock.now()).toBeGreaterThan(19_000);
    }
  },
);

test.each([0, 4])('4,000 devices over %i page channels arrive, each whole', async (pageChannels) => {
  const source = filledVm();
  const loaded = new Map<number, string>();
  const device = (n: number): MigratableDevice => ({
    id: `dev-${n}`,
    version: 1,
    async *save() {
      yield Uint8Array.of(n & 255, n >> 8);
    },
    load: async (state) => {
      for await (const part of state) loaded.set(n, `${loaded.get(n) ?? ''}${part.join(' ')}`);
    },
  });
  const all = Array.from({ length: 4000 }, (_, n) => device(n));
  source.devices = all;
  const toy = start({
    source,
    destination: new ToyVm(BLOCKS, { running: false, devices: all }),
    migrate: { pageChannels, force: true },
  });
  expectMoved(toy, await toy.settled());
  expect(loaded.size).toBe(4000);
  for (const [n, text] of loaded) expect(text).toBe(`${n & 255} ${n >> 8}`);
});

test('four devices that wait while they save and load, side by side, take under 0.4 of one after the other', async () => {
  const took = async (parallel: boolean): Promise<number> => {
    const clock = new VirtualClock();
    const devices = ['a', 'b', 'c', 'd'].map((id) =>
      big(clock, { id, megabytes: 10, saveMs: 20, loadMs: 20, more: parallel ? { parallel } : {} }),
    );
    const { toy } = begin(clock, devices, { migrate: { pageChannels: 4, force: true } });
    const ends = await toy.settled();
    expectMoved(toy, ends);
    for (const { seen } of devices) expect([seen.bytes, seen.wrong]).toEqual([10 * MB + 4, 0]);
    return ends.sent.status === 'fulfilled' ? ends.sent.value.downtimeMs : Number.NaN;
  };
  const apart = await took(false);
  expect(apart).toBeGreaterThan(4 * 10 * 40 - 1);
  expect(await took(true)).toBeLessThan(0.4 * apart);
});

test('one device uses every page channel', async () => {
  const clock = new VirtualClock();
  const carried = [0, 0, 0, 0];
  const gpu = big(clock, { megabytes: 40 });
  const { toy } = begin(clock, [gpu], {
    link: {
      // The bytes are looked at as late as a socket does.
      ...{ copies: 'late', bytesPerSecond: 100 * MB },
      fromSource: (frame, payload, channel) => {
        if (frame.type === 'device') carried[channel] = (carried[channel] ?? 0) + (payload?.byteLength ?? 0);
        return { frame, payload };
      },
    },
    migrate: { pageChannels: 4, force: true },
  });
  const { sent } = await toy.settled();
  expect([gpu.seen.bytes, gpu.seen.wrong]).toEqual([40 * MB + 4, 0]);
  expect(carried).toHaveLength(4);
  for (const bytes of carried) expect(bytes).toBeGreaterThan(4 * MB);
  expect(sent).toMatchObject({ status: 'fulfilled', value: { deviceBytes: 40 * MB + 4 } });
});

test('a bound smaller than the state of devices that save side by side: each gets room in its turn', async () => {
  const clock = new VirtualClock();
  const devices = ['a', 'b', 'c'].map((id) => big(clock, { id, megabytes: 12, loadMs: 1, more: { parallel: true } }));
  const { toy } = begin(clock, devices, {
    migrate: { pageChannels: 2, force: true },
    receive: { maximumDeviceState: 5 * 2 ** 20 },
  });
  expectMoved(toy, await toy.settled());
  for (const { seen } of devices) expect([seen.bytes, seen.wrong]).toEqual([12 * MB + 4, 0]);
});

test('devices that save side by side and load one after the other: the first always has room for its next piece', async () => {
  const clock = new VirtualClock();
  const [a, b] = [
    big(clock, { id: 'a', megabytes: 12, saveMs: 5, more: { parallel: true } }),
    big(clock, { id: 'b', megabytes: 12, more: { parallel: true } }),
  ];
  for (const one of [a, b]) Object.assign(one.destination, { parallel: false });
  const { toy } = begin(clock, [a, b], {
    migrate: { pageChannels: 2, force: true },
    receive: { maximumDeviceState: 5 * 2 ** 20 },
  });
  expectMoved(toy, await toy.settled());
  for (const { seen } of [a, b]) expect([seen.bytes, seen.wrong]).toEqual([12 * MB + 4, 0]);
});

test('a device that is loaded first but saved last cannot make room, and is named', async () => {
  const clock = new VirtualClock();
  const [a, b] = [big(clock, { id: 'a', megabytes: 12 }), big(clock, { id: 'b', megabytes: 1 })];
  const source = filledVm();
  source.devices = [a.source, b.source];
  const toy = start({
    clock,
    source,
    destination: new ToyVm(BLOCKS, { running: false, devices: [b.destination, a.destination] }),
    migrate: { force: true },
    receive: { maximumDeviceState: 4 * MB },
  });
  const ends = await toy.settled();
  expectStayed(toy, ends, 'GODWIT_LIMIT_EXCEEDED');
  const { message } = (ends.sent as PromiseRejectedResult).reason as GodwitError;
  expect(message).toMatch(/device "a" saves more than .* cannot be loaded before "b", which the source saves after it/);
});

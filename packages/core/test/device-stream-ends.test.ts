import type { GodwitError } from '@godwit/core';
import { ToyVm, VirtualClock } from '@godwit/core/testing';
import { expect, test } from '@jest/globals';
import { begin, big, chunkOf, MB } from './big-device.js';
import { BLOCKS, expectMoved, expectStayed, filledVm, start, switchAfter } from './toy-migration.js';

/** Device state over several streams: what is void, lost or wrong, and whom an error names. */

test('a state that is loaded early is given up: the device is reset, and loads a whole new one', async () => {
  for (const live of [0, 6]) {
    const clock = new VirtualClock();
    let saves = 0;
    const gpu = big(clock, { megabytes: 20, live, loadMs: 10 });
    const { save } = gpu.source;
    gpu.source.save = async function* (signal) {
      yield* save.call(gpu.source, signal);
      if (++saves === 1) await clock.sleep(5000);
    };
    const { toy } = begin(clock, [gpu], {
      migrate: { pageChannels: 2, policy: switchAfter(1), pauseLimitMs: 3000 },
      receive: { maximumDeviceState: 4 * MB },
    });
    let earlyAt = Number.POSITIVE_INFINITY;
    toy.migration.subscribe((event) => {
      if (event.type === 'went-back') earlyAt = Math.min(earlyAt, gpu.seen.firstAt);
    });
    expectMoved(toy, await toy.settled());
    expect([gpu.seen.bytes, gpu.seen.wrong, gpu.seen.loads, gpu.seen.resets]).toEqual([20 * MB + 4, 0, 2, 1]);
    expect(earlyAt).toBeLessThan(3000);
  }
});

test('a device that has loaded early and cannot be reset ends the migration by its name; the guest stays', async () => {
  const clock = new VirtualClock();
  const gpu = big(clock, { megabytes: 20, live: 6 });
  gpu.source.save = async function* () {
    for (let n = 6; n < 20; n++) yield chunkOf(n);
    await clock.sleep(5000);
  };
  const { reset: _, ...destination } = gpu.destination;
  const source = filledVm();
  source.devices = [gpu.source];
  const toy = start({
    clock,
    source,
    destination: new ToyVm(BLOCKS, { running: false, devices: [destination] }),
    migrate: { pageChannels: 2, policy: switchAfter(1), pauseLimitMs: 3000 },
    receive: { maximumDeviceState: 4 * MB },
  });
  const ends = await toy.settled();
  expectStayed(toy, ends, 'GODWIT_DEVICE_FAILED');
  expect(((ends.sent as PromiseRejectedResult).reason as GodwitError).message).toMatch(/device "gpu" .* no reset\(\)/);
});

test('a device that returns from `load` before the end of a state that it loads early fails the migration', async () => {
  const clock = new VirtualClock();
  const gpu = big(clock, { megabytes: 20 });
  gpu.destination.load = async (state) => {
    for await (const _ of state) return;
  };
  const { toy } = begin(clock, [gpu], {
    migrate: { pageChannels: 2, force: true },
    receive: { maximumDeviceState: 4 * MB },
  });
  const ends = await toy.settled();
  expectStayed(toy, ends, 'GODWIT_DEVICE_FAILED');
  expect(((ends.sent as PromiseRejectedResult).reason as GodwitError).message).toMatch(
    /device "gpu".* to the last byte/,
  );
});

test.each([1, 4])(
  'a link that is lost at every few pieces, with %i page channels: every byte comes once',
  async (channels) => {
    for (let cutAt = 1; cutAt < 60; cutAt += 7) {
      const clock = new VirtualClock();
      const gpu = big(clock, { megabytes: 30, live: 20, loadMs: 1 });
      let pieces = 0;
      const { toy } = begin(clock, [gpu], {
        link: {
          bytesPerSecond: 100 * MB,
          latencyMs: 1,
          fromSource: (frame, payload) => {
            if (frame.type === 'device' && ++pieces === cutAt) toy.link.cut();
            return { frame, payload };
          },
        },
        migrate: { pageChannels: channels, policy: switchAfter(2), pauseLimitMs: 5000 },
      });
      expectMoved(toy, await toy.settled());
      expect([cutAt, gpu.seen.bytes, gpu.seen.wrong]).toEqual([cutAt, 30 * MB + 4, 0]);
    }
  },
);

test.each<readonly [string, unknown, string]>([
  ['a string', 'text', 'string'],
  ['an ArrayBuffer', new ArrayBuffer(4), 'ArrayBuffer'],
  ['a DataView', new DataView(new ArrayBuffer(4)), 'DataView'],
  ['an array of another kind', new Uint16Array(4), 'Uint16Array'],
  ['nothing', undefined, 'undefined'],
  ['null', null, 'null'],
])('a device that yields %s is named, and what it yielded', async (_, chunk, what) => {
  for (const live of [0, 1]) {
    const clock = new VirtualClock();
    const gpu = big(clock, { megabytes: 2, live });
    const wrong = async function* () {
      yield chunk as Uint8Array;
    };
    if (live > 0) gpu.source.precopy = wrong;
    else gpu.source.save = wrong;
    const { toy } = begin(clock, [gpu], { migrate: { pageChannels: 2, force: true } });
    const ends = await toy.settled();
    expectStayed(toy, ends, 'GODWIT_DEVICE_FAILED');
    const { message } = (ends.sent as PromiseRejectedResult).reason as GodwitError;
    expect(message).toMatch(new RegExp(`device "gpu" failed to (save|pre-copy) .*Uint8Arrays, got ${what}$`));
  }
});

test('a device that saves nothing is named, unless it has yielded state to this destination while the guest ran', async () => {
  for (const [live, code] of [
    [1, undefined],
    [0, 'GODWIT_DEVICE_FAILED'],
  ] as const) {
    const clock = new VirtualClock();
    const gpu = big(clock, { megabytes: 1, live });
    gpu.source.save = async function* () {
      yield new Uint8Array();
    };
    const { toy } = begin(clock, [gpu], { migrate: { pageChannels: 2, force: true } });
    const ends = await toy.settled();
    if (code === undefined) expectMoved(toy, ends);
    else {
      expectStayed(toy, ends, code);
      const { message } = (ends.sent as PromiseRejectedResult).reason as GodwitError;
      expect(message).toMatch(/device "gpu" failed to save its state: save\(\) yielded no state at all/);
    }
  }
});

test('more state than a device takes is refused before a page moves, or ended as it comes; a guess is no reason', async () => {
  for (const [said, pages] of [
    [() => 9 * MB, false],
    [() => ({ bytes: 9 * MB, assumed: 'it is old' }), true],
    [() => 1, true],
  ] as const) {
    const clock = new VirtualClock();
    const gpu = big(clock, { megabytes: 9 });
    Object.assign(gpu.source, { stateBytes: said });
    Object.assign(gpu.destination, { maximumStateBytes: 8 * MB });
    let moved = false;
    const { toy } = begin(clock, [gpu], {
      link: {
        fromSource: (frame, payload) => {
          moved ||= frame.type === 'pages';
          return { frame, payload };
        },
      },
      migrate: { pageChannels: 2, force: true },
    });
    const ends = await toy.settled();
    expectStayed(toy, ends, 'GODWIT_LIMIT_EXCEEDED');
    expect(moved).toBe(pages);
    const { message } = (ends.sent as PromiseRejectedResult).reason as GodwitError;
    expect(message).toMatch(/device "gpu".*8000000/);
  }
});

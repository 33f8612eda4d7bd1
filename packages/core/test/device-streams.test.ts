import type { DeviceFrame, GodwitError, LinkConnector, MigratableDevice, PageStream } from '@godwit/core';
import { memoryLink, ToyVm, VirtualClock } from '@godwit/core/testing';
import { expect, test } from '@jest/globals';
import { BLOCKS, expectMoved, expectStayed, filledVm, start, switchAfter, type ToyOptions } from './toy-migration.js';

/** Device state over several streams: order, room, and what is void. */

const MB = 1e6;

interface Big {
  readonly id?: string;
  readonly megabytes: number;
  /** How much of it is yielded while the guest runs. */
  readonly live?: number;
  /** Milliseconds that saving, and loading, a megabyte takes. */
  readonly saveMs?: number;
  readonly loadMs?: number;
  readonly more?: Partial<MigratableDevice>;
}

/** Chunk `n` of a device: bytes that differ between chunks and inside of one. */
function chunkOf(n: number): Uint8Array {
  const chunk = new Uint8Array(MB).fill(n % 251);
  new DataView(chunk.buffer).setUint32(0, n);
  return chunk;
}

/** What every device saves at last. */
const TAIL = new Uint8Array(4);

/** Two ends of a device of many megabytes; the destination notices a chunk that is lost, torn, twice or out of place. */
function big(clock: VirtualClock, { id = 'gpu', megabytes, live = 0, saveMs = 0, loadMs = 0, more = {} }: Big) {
  const seen = { bytes: 0, wrong: 0, resets: 0, loads: 0, firstAt: -1 };
  let yielded = 0;
  const source: MigratableDevice = {
    id,
    version: 1,
    ...(live > 0
      ? {
          async *precopy() {
            while (yielded < live) yield chunkOf(yielded++);
          },
          restart: async () => {
            yielded = 0;
          },
        }
      : {}),
    async *save() {
      const reused = new Uint8Array(MB);
      for (let n = live; n < megabytes; n++) {
        if (saveMs > 0) await clock.sleep(saveMs);
        reused.set(chunkOf(n));
        yield reused;
        // It was borrowed until now.
        reused.fill(0xee);
      }
      yield TAIL;
    },
    load: async () => {},
    ...more,
  };
  const destination: MigratableDevice = {
    id,
    version: 1,
    async *save() {},
    reset: async () => {
      seen.resets++;
    },
    loadWrites: () => [],
    async load(state) {
      seen.loads++;
      seen.bytes = 0;
      for await (const part of state) {
        if (seen.firstAt < 0) seen.firstAt = clock.now();
        for (let at = 0; at < part.byteLength; at += 4093) {
          const place = (seen.bytes + at) % MB;
          if (place > 3 && part[at] !== Math.floor((seen.bytes + at) / MB) % 251) seen.wrong++;
        }
        seen.bytes += part.byteLength;
        if (loadMs > 0) await clock.sleep((part.byteLength / MB) * loadMs);
      }
    },
    ...more,
  };
  return { source, destination, seen };
}

type Ends = ReturnType<typeof big>;

/** The most bytes that the destination held: frames that have come, less those that its devices have loaded. */
function begin(clock: VirtualClock, devices: readonly Ends[], options: Omit<ToyOptions, 'source' | 'destination'>) {
  const source = filledVm();
  source.devices = devices.map((device) => device.source);
  const held = { now: 0, most: 0 };
  const loading = (device: MigratableDevice): MigratableDevice => ({
    ...device,
    load: (state, version) =>
      device.load(
        (async function* () {
          for await (const part of state) {
            yield part;
            held.now -= part.byteLength;
          }
        })(),
        version,
      ),
  });
  const destination = new ToyVm(BLOCKS, {
    running: false,
    devices: devices.map((device) => loading(device.destination)),
  });
  const tap = options.link?.fromSource;
  const toy = start({
    ...options,
    clock,
    source,
    destination,
    link: {
      ...options.link,
      fromSource: (frame, payload, channel) => {
        if (frame.type === 'device') {
          held.now += payload?.byteLength ?? 0;
          held.most = Math.max(held.most, held.now);
        }
        return tap === undefined ? { frame, payload } : tap(frame, payload, channel);
      },
    },
  });
  return { toy, held };
}

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

const of = (frame: DeviceFrame, attempt: number) => frame.attempt === attempt;

/** Holds frames of one page channel back, as a slow stream does: what is written later on others overtakes them. */
function slowChannel(link: LinkConnector, slow: (frame: DeviceFrame) => Promise<void> | undefined): LinkConnector {
  return {
    ...link,
    async connect(request, signal) {
      const made = await link.connect(request, signal);
      const [first, ...others] = made.pageChannels as [PageStream, ...PageStream[]];
      const write = first.write.bind(first);
      let before: Promise<unknown> = Promise.resolve();
      first.write = (frame, payload) => {
        const wait = frame.type === 'device' ? slow(frame) : undefined;
        // It has taken the piece, as a socket does, and delivers it later; what follows on it waits.
        const copy = payload?.map((part) => part.slice());
        if (wait !== undefined) before = before.then(() => wait);
        const going = before.then(() => write(frame, wait === undefined ? payload : copy));
        going.catch(() => {});
        return wait === undefined ? going : Promise.resolve();
      };
      return { ...made, pageChannels: [first, ...others] };
    },
  };
}

function gate() {
  let open: () => void = () => {};
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { opened, open: () => open() };
}

test('`switchover` overtakes a piece of pre-copy, and one of its attempt: nothing is loaded before they have come', async () => {
  for (const attempt of [0, 1]) {
    const clock = new VirtualClock();
    const gpu = big(clock, { megabytes: 8, live: 4 });
    const late = gate();
    const link = memoryLink({ clock });
    let ready = false;
    const { toy } = begin(clock, [gpu], {
      connector: slowChannel(link.connector, (frame) => (of(frame, attempt) ? late.opened : undefined)),
      listener: link.listener,
      migrate: { pageChannels: 2, force: true, policy: switchAfter(1) },
    });
    toy.migration.subscribe((event) => {
      ready ||= event.type === 'state' && event.state === 'settling';
    });
    void clock.sleep(5000).then(() => {
      expect([attempt, ready]).toEqual([attempt, false]);
      late.open();
    });
    expectMoved(toy, await toy.settled());
    expect([gpu.seen.bytes, gpu.seen.wrong, gpu.seen.loads]).toEqual([8 * MB + 4, 0, 1]);
    expect(clock.now()).toBeGreaterThanOrEqual(5000);
  }
});

test('pieces of an attempt that was given up come after `back`, on a slow page channel: they are thrown away', async () => {
  const clock = new VirtualClock();
  const gpu = big(clock, { megabytes: 20 });
  const late = gate();
  const link = memoryLink({ clock });
  let saves = 0;
  const hung: MigratableDevice = {
    id: 'late',
    version: 1,
    async *save() {
      // The first attempt hangs until its bound is passed.
      if (++saves === 1) await clock.sleep(3000);
      yield Uint8Array.of(saves);
    },
    load: async () => {},
  };
  const lateSeen: number[] = [];
  const source = filledVm();
  source.devices = [gpu.source, hung];
  const toy = start({
    clock,
    source,
    destination: new ToyVm(BLOCKS, {
      running: false,
      devices: [
        gpu.destination,
        { ...hung, load: async (state) => void (await eachOf(state, (part) => void lateSeen.push(...part))) },
      ],
    }),
    connector: slowChannel(link.connector, (frame) => (of(frame, 1) ? late.opened : undefined)),
    listener: link.listener,
    migrate: { pageChannels: 2, policy: switchAfter(1), pauseLimitMs: 1000 },
  });
  let wentBack = 0;
  toy.incoming.subscribe((event) => {
    if (event.type !== 'went-back') return;
    wentBack++;
    late.open();
  });
  expectMoved(toy, await toy.settled());
  expect([wentBack, gpu.seen.bytes, gpu.seen.wrong, gpu.seen.loads]).toEqual([1, 20 * MB + 4, 0, 1]);
  expect(lateSeen).toEqual([2]);
});

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

async function eachOf(state: AsyncIterable<Uint8Array>, take: (part: Uint8Array) => void): Promise<void> {
  for await (const part of state) take(part);
}

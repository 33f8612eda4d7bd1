import { type Compression, delta, type MigrateOptions, type MigrationSummary, PageRunList } from '@godwit/core';
import { BufferMemory, engineParts, ToyVm, VirtualClock } from '@godwit/core/testing';
import { describe, expect, jest, test } from '@jest/globals';
import { expectMoved, start } from '../toy-migration.js';

jest.setTimeout(120_000);

const { Gain, LinkPace } = engineParts;
const MIB = 2 ** 20;
const PAGE = 2 ** 16;
const BLOCKS = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 48 * MIB }];

/** A compression that takes the time and makes the size that it is told to, and remembers what it was given. */
class Model implements Compression {
  readonly kind = 'compression';
  readonly name: string;
  readonly recipe = { module: undefined, make: 'model', options: undefined };
  readonly expectedMsPerMiB: number;
  clock = new VirtualClock();
  tried = 0;
  readonly #msPerMiB: number;
  readonly #ratio: number;
  readonly #given: Uint8Array[] = [];

  constructor(name: string, msPerMiB: number, ratio: number, expectedMsPerMiB = msPerMiB) {
    this.name = name;
    this.#msPerMiB = msPerMiB;
    this.#ratio = ratio;
    this.expectedMsPerMiB = expectedMsPerMiB;
  }

  async compress(pages: Uint8Array): Promise<Uint8Array> {
    this.tried++;
    await this.clock.sleep((pages.length / MIB) * this.#msPerMiB);
    const bytes = new Uint8Array(Math.max(4, Math.ceil(pages.length * this.#ratio)));
    new DataView(bytes.buffer).setUint32(0, this.#given.push(pages.slice()) - 1);
    return bytes;
  }

  async decompress(bytes: Uint8Array): Promise<Uint8Array> {
    const { buffer, byteOffset } = bytes;
    return this.#given[new DataView(buffer, byteOffset).getUint32(0)] as Uint8Array;
  }
}

/**
 * Moves 48 MiB, every page of it different, over a link of so many bytes a second. At the end of round 1 the guest writes `lateBytes`
 * again.
 */
async function move(
  bytesPerSecond: number,
  models: readonly Model[],
  options: MigrateOptions = {},
  lateBytes = 0,
): Promise<MigrationSummary> {
  const source = new ToyVm(BLOCKS, { pageSize: PAGE });
  source.write(0, 0, new Uint8Array(48 * MIB).fill(1));
  const words = new Uint32Array(source.memory.blocks[0]?.bytes.buffer as ArrayBuffer);
  for (let i = 0; i < words.length; i += PAGE / 64) words[i] = i;
  const toy = start({
    source,
    destination: new ToyVm(BLOCKS, { pageSize: PAGE, running: false }),
    link: {
      bytesPerSecond,
      fromSource: (frame, payload) => {
        if (frame.type === 'roundEnd' && frame.round === 1) source.write(0, 0, new Uint8Array(lateBytes).fill(7));
        return { frame, payload };
      },
    },
    migrate: { encodings: models, downtimeLimitMs: 1e9, ...options },
    receive: { encodings: [delta(), ...models] },
  });
  for (const model of models) model.clock = toy.clock;
  expectMoved(toy, await toy.settled());
  return toy.migration.result;
}

describe('compression', () => {
  test('is used where it makes the link seem faster', async () => {
    const raw = await move(100e6, []);
    const model = new Model('good', 2, 0.25);
    const { totalMs, pages, savedBytes } = await move(100e6, [model]);
    expect(totalMs).toBeLessThan(raw.totalMs * 0.75);
    expect(pages.compressed).toBeGreaterThan(300);
    expect(savedBytes).toBeGreaterThan(15 * MIB);
  });

  test('from the first byte on, when a limit says how dear bytes are', async () => {
    const options = { bandwidthLimit: 20e6 };
    const raw = await move(1e9, [], options);
    const { totalMs, pages } = await move(1e9, [new Model('good', 2, 0.25)], options);
    expect(pages.raw).toBe(0);
    expect(totalMs).toBeLessThan(raw.totalMs / 3);
  });

  test('for a bandwidth limit says nothing of the pages that are sent without one, in the pause', async () => {
    const model = new Model('slow', 20, 0.05);
    const { downtime, rounds } = await move(200e6, [model], { bandwidthLimit: 20e6 }, 8 * MIB);
    expect(rounds[0]?.pages.compressed).toBeGreaterThan(700);
    expect(rounds.at(-1)?.pages.raw).toBe(128);
    const { predictedMs, actualMs } = downtime.ramMs;
    expect(actualMs).toBeGreaterThan(40);
    expect(Math.abs(predictedMs / actualMs - 1)).toBeLessThan(0.2);
  });

  test('is not even tried on a link that is faster than it is', async () => {
    const raw = await move(2e9, []);
    const model = new Model('good', 2, 0.25);
    const { totalMs } = await move(2e9, [model]);
    expect(model.tried).toBe(0);
    expect(totalMs).toBeLessThan(raw.totalMs * 1.01);
  });

  test.each([
    ['does not make pages smaller', new Model('stubborn', 2, 1)],
    ['is slower than was expected of it', new Model('slow', 20, 0.25, 2)],
    ['hardly gains anything', new Model('thin', 2, 0.9)],
  ])('is given up soon when it %s', async (_, model) => {
    const raw = await move(100e6, []);
    const { totalMs } = await move(100e6, [model]);
    expect(model.tried).toBeGreaterThan(0);
    expect(model.tried).toBeLessThan(12);
    expect(totalMs).toBeLessThan(raw.totalMs * 1.1);
  });

  test('stops for a moment now and then, to see how fast the link is by now', async () => {
    const raw = await move(5e5, []);
    const { totalMs, pages } = await move(5e5, [new Model('good', 2, 0.25)]);
    // Sampled at the start, and again after 20 s.
    expect(pages.raw).toBeGreaterThan(100);
    expect(pages.compressed).toBeGreaterThan(400);
    expect(totalMs).toBeGreaterThan(20_000);
    expect(totalMs).toBeLessThan(raw.totalMs * 0.6);
  });

  test('of two, the one that is quicker in all is used', async () => {
    for (const bytesPerSecond of [300e6, 20e6]) {
      const light = new Model('light', 1, 0.5);
      const heavy = new Model('heavy', 8, 0.1);
      await move(bytesPerSecond, [heavy, light]);
      const [used, other] = bytesPerSecond === 300e6 ? [light, heavy] : [heavy, light];
      expect(used.tried).toBeGreaterThan(20);
      expect(other.tried).toBeLessThan(8);
    }
  });

  test('that is asked for at any cost is used at any cost', async () => {
    const { pages } = await move(2e9, [new Model('slow', 20, 0.25)], { adaptiveEncodings: false });
    expect(pages.raw).toBe(0);
  });
});

describe('the pace of a link', () => {
  /** Writes of 1 MiB, so many at once; `takes` says when the carrier has taken the bytes so far. */
  function write(
    pace: InstanceType<typeof LinkPace>,
    from: number,
    count: number,
    takes: (bytes: number) => number,
  ): number {
    let now = from;
    for (let i = 0; i < 4; i++) pace.begun(now);
    for (let i = 0; i < count; i++) {
      now = Math.max(now, from + takes((i + 1) * MIB));
      pace.ended(MIB, now);
      if (i < count - 4) pace.begun(now);
    }
    return now;
  }

  test('is that of the carrier, whatever its buffers have swallowed at first', () => {
    const pace = new LinkPace();
    write(pace, 0, 60, (bytes) => Math.max(0, bytes - 6 * MIB) / 125_000);
    expect(pace.bytesPerMs).toBeGreaterThan(110_000);
    expect(pace.bytesPerMs).toBeLessThan(140_000);
  });

  test('is not known from what the buffers can swallow', () => {
    const pace = new LinkPace();
    let now = 0;
    for (let round = 0; round < 20; round++) now = write(pace, now + 100, 7, (bytes) => bytes / 1e7);
    expect(pace.bytesPerMs).toBeUndefined();
  });

  test('of a very slow one is known after half a second', () => {
    const pace = new LinkPace();
    write(pace, 0, 3, (bytes) => bytes / 4_000);
    expect(pace.bytesPerMs).toBeCloseTo(4_000, -2);
  });

  test('that has changed is soon believed', () => {
    const pace = new LinkPace();
    const now = write(pace, 0, 60, (bytes) => bytes / 1e6);
    write(pace, now, 60, (bytes) => bytes / 1e5);
    expect(pace.bytesPerMs).toBeLessThan(1.2e5);
  });
});

describe('the gain of an encoding', () => {
  test('is tried again after a loss, more and more seldom', () => {
    const gain = new Gain(1e-6);
    const tried: number[] = [];
    for (let mib = 0; mib < 4096; mib++) {
      if (!gain.pays(MIB, 1e5)) continue;
      tried.push(mib);
      gain.tried(MIB, MIB, 5);
    }
    expect(tried.slice(0, 7)).toEqual([0, 16, 17, 49, 50, 114, 115]);
    expect(tried.length).toBeLessThan(40);
  });

  test('that had a bad start is believed after one good trial', () => {
    const gain = new Gain(1e-6);
    for (let i = 0; i < 4; i++) gain.tried(MIB, MIB / 4, 40);
    let batches = 0;
    while (batches++ < 64) if (gain.pays(MIB, 1e5)) gain.tried(MIB, MIB / 4, 2);
    expect(gain.msPerByte(1e5) * 1e5).toBeLessThan(0.6);
  });

  test('is believed again when it is back', () => {
    const gain = new Gain(1e-6);
    for (let i = 0; i < 10; i++) gain.tried(MIB, MIB, 5);
    expect(gain.pays(MIB, 1e5)).toBe(false);
    for (let i = 0; i < 10; i++) gain.tried(MIB, MIB / 10, 1);
    expect(gain.pays(MIB, 1e5)).toBe(true);
  });
});

describe('deltas', () => {
  /** 4 batches of 64 pages, each of which takes 10 ms on a link that carries 100 batches a second; the work on a batch takes as long as `step` says. */
  const costs = { step: 0 };
  let now = 0;
  const clock = { now: () => (now += costs.step), sleep: async () => {}, yield: async () => {} };
  const PAGES = 64;

  function rounds(fillMs: number, compareMs: number): number[] {
    const memory = new BufferMemory([{ id: 'ram', guestPhysicalAddress: 0, byteLength: 4 * PAGES * PAGE }], PAGE);
    memory.write(0, 0, new Uint8Array(4 * PAGES * PAGE).fill(7));
    const encoder = new engineParts.ChannelEncoder({
      windows: new engineParts.MemoryWindows(memory),
      clock,
      cache: engineParts.DeltaCache.storage(4 * PAGES * PAGE, PAGE),
      encodings: [],
      maximumPayload: 4 * 2 ** 20,
      adaptive: true,
    });
    const limit = (PAGES * PAGE) / 0.01;
    const none = new PageRunList();
    return Array.from({ length: 4 }, (_, round) => {
      costs.step = round === 0 ? fillMs : compareMs;
      let deltas = 0;
      for (let first = 0; first < 4 * PAGES; first += PAGES) {
        const pages = new PageRunList();
        pages.push(first, PAGES);
        const batch = encoder.encode({ round: round + 1, block: 0, limit }, pages, none, none);
        deltas += batch.delta.pageCount;
        encoder.release(batch);
      }
      return deltas;
    });
  }

  test('are made although filling the cache is slow, since the link is waited for meanwhile', () => {
    expect(rounds(8, 1)).toEqual([0, 256, 256, 256]);
  });

  test('are not made when filling the cache takes longer than the pages take on the link', () => {
    const [, ...later] = rounds(40, 1);
    expect(Math.max(...later)).toBeLessThan(256);
  });

  test('are given up when comparing takes too much of the time that it saves', () => {
    expect(rounds(1, 40).at(-1)).toBeLessThan(64);
  });
});

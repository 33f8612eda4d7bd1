import { delta, type MigrateOptions, migrate } from '@godwit/core';
import { type FrameTap, memoryLink, ToyVm } from '@godwit/core/testing';
import { describe, expect, jest, test } from '@jest/globals';
import { codeOf, expectMoved, expectStayed, PAGE, random, start, type Toy, type ToyOptions } from '../toy-migration.js';

jest.setTimeout(60_000);

const PAGES = 300;
const BLOCKS = [
  { id: 'low', guestPhysicalAddress: 0, byteLength: 100 * PAGE },
  { id: 'high', guestPhysicalAddress: 2 ** 32, byteLength: (PAGES - 100) * PAGE },
];

function noise(next: () => number): Uint8Array {
  const words = new Uint32Array(PAGE / 4);
  for (let i = 0; i < words.length; i++) words[i] = next();
  return new Uint8Array(words.buffer);
}

/** A guest whose pages are no pattern, with some zero pages between them. */
function guest(seed = 1): ToyVm {
  const next = random(seed);
  const vm = new ToyVm(BLOCKS);
  for (const [block, { byteLength }] of BLOCKS.entries()) {
    for (let at = 0; at < byteLength; at += PAGE) {
      if (next() % 7 === 0) continue;
      vm.write(block, at, noise(next));
    }
  }
  return vm;
}

/** Goes on for so many rounds, whatever is left. */
function rounds(count: number, options: MigrateOptions = {}): MigrateOptions {
  return {
    encodings: [delta()],
    adaptiveEncodings: false,
    verify: true,
    policy: ({ outcome }) =>
      outcome.round < count ? { action: 'continue', reason: 'test' } : { action: 'switchover', reason: 'test' },
    ...options,
  };
}

/** A guest that writes whenever the migration says something: a few bytes here, a whole page there, and zeros. */
function restless(toy: Toy, seed = 7): void {
  const next = random(seed);
  toy.migration.subscribe({
    next: ({ type }) => {
      if (!toy.source.running || (type !== 'round-start' && type !== 'round' && type !== 'progress')) return;
      for (let i = 0; i < 80; i++) {
        const page = next() % 97;
        const block = next() % 2;
        const kind = next() % 20;
        if (kind === 0) toy.source.write(block, page * PAGE, new Uint8Array(PAGE));
        else if (kind === 1) toy.source.discard(block, { firstPage: page, pageCount: 1 + (next() % 3) });
        else if (kind < 4) toy.source.write(block, page * PAGE, noise(next));
        else toy.source.write(block, page * PAGE + (next() % (PAGE - 8)), Uint8Array.of(next(), next(), next()));
      }
    },
    error: () => {},
  });
}

const startWith = (options: ToyOptions): Toy => {
  const toy = start({ source: guest(), destination: new ToyVm(BLOCKS, { running: false }), ...options });
  restless(toy);
  return toy;
};

describe('with deltas', () => {
  test.each([
    ['early', 0],
    ['late', 0],
    ['late', 3],
  ] as const)(
    'a guest that writes all the time comes over whole (payloads copied %s, %i page channels)',
    async (copies, pageChannels) => {
      const toy = startWith({ link: { copies }, migrate: rounds(8, { pageChannels }) });
      const ends = await toy.settled();
      expectMoved(toy, ends);
      const summary = await toy.migration.result;
      expect(summary.verified).toBe(true);
      expect(summary.pages.delta).toBeGreaterThan(200);
      expect(summary.pages.compressed).toBe(0);
      expect(summary.savedBytes).toBeGreaterThan(summary.pages.delta * PAGE * 0.5);
      expect(summary.rounds.reduce((sum, round) => sum + round.pages.delta, 0)).toBe(summary.pages.delta);
      expect(summary.rounds[0]?.pages.delta).toBe(0);
      const { pages } = (await toy.incoming.result).summary;
      expect(pages.delta).toBe(summary.pages.delta);
      expect(pages.raw).toBe(summary.pages.raw);
    },
  );

  test('a cache that holds next to nothing, and one that holds a part', async () => {
    for (const cacheBytes of [0, 40 * PAGE]) {
      const toy = startWith({ migrate: rounds(6, { encodings: [delta({ cacheBytes })] }) });
      expectMoved(toy, await toy.settled());
      const { pages } = await toy.migration.result;
      expect(pages.delta).toBeGreaterThan(0);
      expect(pages.raw).toBeGreaterThan(PAGES);
    }
  });

  test('as long as the link is fast, or nobody knows, pages are sent raw', async () => {
    const toy = startWith({ migrate: rounds(4, { adaptiveEncodings: true }) });
    expectMoved(toy, await toy.settled());
    expect((await toy.migration.result).pages.delta).toBe(0);
  });

  test('a bandwidth limit makes bytes dear, and deltas pay', async () => {
    const toy = startWith({ migrate: rounds(4, { adaptiveEncodings: true, bandwidthLimit: 50e6 }) });
    expectMoved(toy, await toy.settled());
    expect((await toy.migration.result).pages.delta).toBeGreaterThan(50);
  });

  // The last round finds the pages with contents: a wrong version would stay.
  test.each(['zero', 'hole'])('a page that is %s for a round, and then nearly what it was before', async (kind) => {
    const source = guest();
    const before = source.memory.blocks[1]?.bytes.slice(0, 50 * PAGE) as Uint8Array;
    const toy = start({ source, destination: new ToyVm(BLOCKS, { running: false }), migrate: rounds(8) });
    toy.migration.subscribe({
      next: (event) => {
        if (event.type !== 'round' || !source.running) return;
        if (event.round.round % 2 === 0) {
          source.write(1, 0, before);
          for (let page = 0; page < 50; page++) source.write(1, page * PAGE + 16, Uint8Array.of(event.round.round));
        } else if (kind === 'zero') source.write(1, 0, new Uint8Array(50 * PAGE));
        else source.discard(1, { firstPage: 0, pageCount: 50 });
      },
      error: () => {},
    });
    expectMoved(toy, await toy.settled());
    const { pages } = await toy.migration.result;
    expect(kind === 'zero' ? pages.zero : pages.hole).toBeGreaterThan(100);
  });

  test('what a page costs on the wire is what the prediction goes by', async () => {
    const source = guest();
    const toy = start({
      source,
      destination: new ToyVm(BLOCKS, { running: false }),
      link: { bytesPerSecond: 1e6 },
      migrate: rounds(6),
    });
    toy.migration.subscribe({
      next: (event) => {
        if (event.type !== 'round-start') return;
        for (let page = 0; page < 150; page++) {
          if (source.running) source.write(1, page * PAGE, Uint8Array.of(event.round));
        }
      },
      error: () => {},
    });
    expectMoved(toy, await toy.settled());
    const summary = await toy.migration.result;
    // Raw, 150 pages would take 614 ms.
    expect(summary.rounds[4]?.pages.delta).toBe(150);
    expect(summary.predictedDowntimeMs).toBeLessThan(100);
  });
});

describe('agreeing', () => {
  const without = { receive: { encodings: [] } };

  test('a destination without deltas refuses, unless it may do without', async () => {
    const refused = startWith({ ...without, migrate: rounds(3) });
    const ends = await refused.settled();
    expectStayed(refused, ends, 'GODWIT_UNSUPPORTED');
    expect(ends.sent.status === 'rejected' && String(ends.sent.reason)).toContain('encoding:delta');

    const toy = startWith({ ...without, migrate: rounds(3, { missingEncoding: 'warn' }) });
    expectMoved(toy, await toy.settled());
    expect((await toy.migration.result).pages.delta).toBe(0);
    for (const events of [toy.events, toy.incomingEvents]) {
      expect(events).toContainEqual(expect.objectContaining({ type: 'warning', code: 'GODWIT_UNSUPPORTED' }));
    }
  });

  test.each(['deltaPages', 'compressedPages'])(
    'a source that sends %s though they were not agreed on is refused',
    async (type) => {
      const fromSource: FrameTap = (frame, payload) =>
        frame.type === 'pages'
          ? { frame: { ...frame, type, encoding: 'zstd' } as typeof frame, payload }
          : { frame, payload };
      const toy = startWith({ link: { fromSource }, migrate: { verify: true } });
      expectStayed(toy, await toy.settled(), 'GODWIT_PROTOCOL');
    },
  );

  test('names that cannot be, or come twice, are refused at once', () => {
    for (const encodings of [[delta(), delta()], [{ ...delta(), name: 'Bad name' as 'delta' }]]) {
      expect(() => migrate(guest(), memoryLink().connector, { encodings })).toThrow(
        expect.objectContaining({ code: 'GODWIT_INVALID_ARGUMENT' }),
      );
    }
  });
});

describe('what is broken on purpose is noticed', () => {
  test.each([
    ['lost from the middle of a delta', (payload: Uint8Array) => payload.subarray(0, payload.length - 3)],
    ['behind a delta', (payload: Uint8Array) => Uint8Array.of(...payload, 0)],
  ])('bytes %s', async (_, alter) => {
    const fromSource: FrameTap = (frame, payload) =>
      frame.type === 'deltaPages' && payload !== undefined ? { frame, payload: alter(payload) } : { frame, payload };
    const toy = startWith({ link: { fromSource }, migrate: rounds(5) });
    expectStayed(toy, await toy.settled(), 'GODWIT_PROTOCOL');
  });

  test('a delta of another version than the destination has', async () => {
    // The destination never gets what is in round 2, and says that it did.
    const fromSource: FrameTap = (frame, payload) =>
      frame.type === 'deltaPages' && frame.round === 2 && payload !== undefined
        ? { frame, payload: new Uint8Array(frame.runs.reduce((sum, count, i) => (i % 2 === 1 ? sum + count : sum), 0)) }
        : { frame, payload };
    const toy = startWith({ link: { fromSource }, migrate: rounds(5) });
    const ends = await toy.settled();
    expect(codeOf(ends.sent)).toBe('GODWIT_VERIFY_FAILED');
    expect(toy.source.running).toBe(true);
  });
});

import { type Compression, delta, type EncodingRecipe, migrate, receive } from '@godwit/core';
import { makeEncoding } from '@godwit/core/pages';
import { encodingSuite, memoryLink, ToyVm } from '@godwit/core/testing';
import { lz4, zstd, zstdAvailable } from '@godwit/transport';
import { describe, expect, jest, test } from '@jest/globals';
import fc from 'fast-check';

jest.setTimeout(60_000);

const PAGE = 4096;
const CODECS: readonly Compression[] = zstdAvailable ? [lz4(), zstd()] : [lz4()];

for (const codec of CODECS) {
  const make = codec.name === 'lz4' ? lz4 : zstd;
  encodingSuite(codec.name, { describe, test }, { make });
}

/** Pages of the kinds that a guest has: noise, text, pointers, next to nothing. */
const contents = fc
  .array(fc.tuple(fc.constantFrom('noise', 'text', 'pointers', 'sparse'), fc.integer()), {
    minLength: 1,
    maxLength: 16,
  })
  .map((kinds) => {
    const bytes = new Uint8Array(kinds.length * PAGE);
    for (const [page, [kind, seed]] of kinds.entries())
      fill(bytes.subarray(page * PAGE, (page + 1) * PAGE), kind, seed);
    return bytes;
  });

function fill(page: Uint8Array, kind: string, seed: number): void {
  let state = Math.imul(seed, 0x9e3779b1) ^ 0x5bd1e995;
  for (let i = 0; i < page.length; i++) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0;
    if (kind === 'noise') page[i] = state >>> 24;
    else if (kind === 'text') page[i] = 97 + ((state >>> 28) % 7);
    else if (kind === 'pointers') page[i] = [state >>> 24, 0x80, i >>> 8, 0, 0x55, 0x55, 0, 0][i % 8] as number;
    else if (i % 512 === 9) page[i] = state >>> 24;
  }
}

test('zstd is there, or says which Node has it', () => {
  if (zstdAvailable) expect(zstd().name).toBe('zstd');
  else expect(() => zstd()).toThrow(expect.objectContaining({ code: 'GODWIT_UNSUPPORTED' }));
  expect(() => zstd({ level: 0 })).toThrow(expect.objectContaining({ code: 'GODWIT_INVALID_ARGUMENT' }));
});

describe.each(CODECS.map((codec) => [codec.name, codec] as const))('%s', (name, codec) => {
  test('gives back what it was given', async () => {
    await fc.assert(
      fc.asyncProperty(contents, async (pages) => {
        const bytes = await codec.compress(pages);
        expect(Buffer.compare(await codec.decompress(bytes, pages.length), pages)).toBe(0);
      }),
    );
  });

  test('makes pages that say the same again and again small', async () => {
    const pages = new Uint8Array(64 * PAGE);
    for (let at = 0; at < pages.length; at += PAGE) fill(pages.subarray(at, at + PAGE), 'sparse', at);
    expect((await codec.compress(pages)).length).toBeLessThan(pages.length / 20);
  });

  test('never gives more than was asked for: a bomb is refused, or cut', async () => {
    const bomb = await codec.compress(new Uint8Array(2 ** 22));
    expect(bomb.length).toBeLessThan(2 ** 16);
    for (const byteLength of [PAGE, 2 ** 20]) await expect(codec.decompress(bomb, byteLength)).rejects.toThrow();
    const small = await codec.compress(new Uint8Array(PAGE));
    expect((await codec.decompress(small, 2 * PAGE)).length).toBe(PAGE);
  });

  test('survives whatever bytes come', async () => {
    const good = await codec.compress(new Uint8Array(4 * PAGE).map((_, i) => i >>> 3));
    const altered = fc
      .array(fc.tuple(fc.nat(good.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 })
      .map((changes) => {
        const bytes = good.slice();
        for (const [at, value] of changes) bytes[at] = value;
        return bytes;
      });
    await fc.assert(
      fc.asyncProperty(fc.oneof(fc.uint8Array({ maxLength: 200 }), altered), async (bytes) => {
        const result = await codec.decompress(bytes, 4 * PAGE).catch(() => new Uint8Array());
        expect(result.length).toBeLessThanOrEqual(4 * PAGE);
      }),
      { numRuns: 500 },
    );
  });

  test('is made again from its recipe', async () => {
    const again = await makeEncoding(structuredClone(codec.recipe as EncodingRecipe));
    expect(again).toMatchObject({ kind: 'compression', name });
    const bytes = await (again as Compression).compress(new Uint8Array(PAGE).fill(3));
    expect(await codec.decompress(bytes, PAGE)).toHaveLength(PAGE);
  });

  test.each([0, 2])(
    'moves a guest that writes meanwhile, with deltas beside it (%i page channels)',
    async (pageChannels) => {
      const blocks = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 1024 * PAGE }];
      const source = new ToyVm(blocks);
      const destination = new ToyVm(blocks, { running: false });
      const page = new Uint8Array(PAGE);
      for (let at = 0; at < 900; at++) {
        fill(page, at < 256 ? 'noise' : (['text', 'pointers', 'sparse'][(at >> 4) % 3] as string), at);
        source.write(0, at * PAGE, page);
      }
      const link = memoryLink();
      const encodings = [delta({ cacheBytes: 256 * PAGE }), codec];
      const incoming = receive(link.listener, { prepare: () => destination, encodings });
      const migration = migrate(source, link.connector, {
        encodings,
        adaptiveEncodings: false,
        verify: true,
        pageChannels,
        policy: ({ outcome }) => ({ action: outcome.round < 5 ? 'continue' : 'switchover', reason: 'test' }),
      });
      migration.subscribe({
        next: ({ type }) => {
          if (!source.running || !['round', 'round-start', 'progress'].includes(type)) return;
          for (let at = 0; at < 300; at += 2)
            source.write(0, at * PAGE + ((at * 97) % (PAGE - 4)), Uint8Array.of(at, 7));
        },
        error: () => {},
      });
      const summary = await migration.result;
      await incoming.result;
      expect(destination.memory.firstDifference(source.memory)).toBeUndefined();
      expect(summary.verified).toBe(true);
      expect(summary.pages.compressed).toBeGreaterThan(300);
      expect(summary.pages.delta).toBeGreaterThan(100);
      // Batches of nothing but noise go as they are.
      expect(summary.pages.raw).toBeGreaterThan(0);
      expect(summary.wireBytes).toBeLessThan(summary.rawBytes / 1.5);
      expect(summary.rawBytes).toBeLessThan(summary.wireBytes + summary.savedBytes + 900 * PAGE);
    },
  );

  test('a payload that does not hold its pages is refused before any of it is in guest memory', async () => {
    const blocks = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 64 * PAGE }];
    const source = new ToyVm(blocks);
    source.write(0, 0, new Uint8Array(64 * PAGE).fill(5));
    const short = await codec.compress(new Uint8Array(63 * PAGE).fill(5));
    const long = await codec.compress(new Uint8Array(65 * PAGE).fill(5));
    for (const payload of [short, long, new Uint8Array(40).fill(0xee), new Uint8Array()]) {
      const destination = new ToyVm(blocks, { running: false });
      const link = memoryLink({
        fromSource: (frame, bytes) =>
          frame.type === 'compressedPages' ? { frame, payload } : { frame, payload: bytes },
      });
      const incoming = receive(link.listener, { prepare: () => destination, encodings: [codec] });
      const options = { encodings: [codec], adaptiveEncodings: false };
      await expect(migrate(source, link.connector, options).result).rejects.toMatchObject({ code: 'GODWIT_PROTOCOL' });
      await expect(incoming.result).rejects.toMatchObject({ code: 'GODWIT_PROTOCOL' });
      expect(destination.memory.blocks[0]?.bytes.every((byte) => byte === 0)).toBe(true);
      expect(source.running).toBe(true);
    }
  });
});

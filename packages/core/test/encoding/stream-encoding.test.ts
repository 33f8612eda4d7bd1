import type { PagesOfBatch, StreamEncoding } from '@godwit/core';
import { encodingSuite, memoryLink, ToyVm } from '@godwit/core/testing';
import { describe, expect, jest, test } from '@jest/globals';
import { expectMoved, expectStayed, PAGE, start, switchAfter } from '../toy-migration.js';

jest.setTimeout(120_000);

interface Ledger {
  readonly make: () => StreamEncoding;
  encoders: number;
  decoders: number;
  /** Calls of all encoders that were under way while another one of the same encoder began. */
  overlapping: number;
}

/**
 * An encoding that numbers its pieces, and whose decoder takes them in that order alone. Pages of one byte are sent as that byte, others
 * are left to the engine.
 */
function ledger(change: Partial<StreamEncoding> = {}): Ledger {
  const made: Ledger = { encoders: 0, decoders: 0, overlapping: 0, make };
  function make(): StreamEncoding {
    return {
      kind: 'stream',
      name: 'ledger',
      expectedMsPerMiB: 1,
      stateBytes: 8,
      encoder() {
        made.encoders++;
        let next = 0;
        let busy = false;
        return {
          async encode(pages, { pageSize }) {
            if (busy) made.overlapping++;
            busy = true;
            // The longer it takes, the earlier it was called: without an order of the engine's, later pieces come first.
            for (let turns = 8 - (next % 8); turns > 0; turns--) await Promise.resolve();
            busy = false;
            const starts = Array.from({ length: pages.length / pageSize }, (_, i) => i * pageSize);
            const plain = starts.every((at) => pages.subarray(at, at + pageSize).every((byte) => byte === pages[at]));
            if (!plain) return undefined;
            return Uint8Array.of(next >>> 8, next++ & 255, ...starts.map((at) => pages[at] as number));
          },
        };
      },
      decoder() {
        made.decoders++;
        let next = 0;
        return {
          decode(bytes, { pageSize, runs }: PagesOfBatch) {
            const [high = 0, low = 0, ...values] = bytes;
            if (high * 256 + low !== next) throw new Error(`piece ${high * 256 + low} came, and ${next} was expected`);
            next++;
            const pages = runs.reduce((sum, count, i) => sum + (i % 2) * count, 0);
            if (values.length !== pages) throw new Error(`${values.length} values for ${pages} pages`);
            return Uint8Array.from({ length: pages * pageSize }, (_, i) => values[Math.floor(i / pageSize)] as number);
          },
        };
      },
      ...change,
    };
  }
  return made;
}

const BLOCKS = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 2048 * PAGE }];

/** Pages of one byte each: 8 MiB, so that a round has many batches. */
function plainGuest(): ToyVm {
  const vm = new ToyVm(BLOCKS);
  for (let page = 0; page < 2048; page++) vm.write(0, page * PAGE, new Uint8Array(PAGE).fill(1 + (page % 251)));
  return vm;
}

const plain = new Uint8Array(64 * PAGE).map((_, i) => 1 + (i >>> 12));
encodingSuite('an encoding that counts its pieces', { describe, test }, { make: ledger().make, sample: plain });

describe.each([0, 2])('an encoding with state, with %i page channels', (pageChannels) => {
  test('is asked for one batch at a time, and its pieces come in order', async () => {
    const near = ledger();
    const far = ledger();
    const toy = start({
      source: plainGuest(),
      destination: new ToyVm(BLOCKS, { running: false }),
      migrate: {
        encodings: [near.make()],
        adaptiveEncodings: false,
        pageChannels,
        policy: switchAfter(3),
        verify: true,
      },
      receive: { encodings: [far.make()] },
    });
    expectMoved(toy, await toy.settled());
    const { pages } = await toy.migration.result;
    expect(pages.compressed).toBeGreaterThan(2000);
    expect(near.overlapping).toBe(0);
    expect([near.encoders, far.decoders]).toEqual([Math.max(1, pageChannels), Math.max(1, pageChannels)]);
  });

  test('begins anew over a new connection', async () => {
    const near = ledger();
    const far = ledger();
    const link: { cut?: () => void } = {};
    let frames = 0;
    const toy = start({
      source: plainGuest(),
      destination: new ToyVm(BLOCKS, { running: false }),
      link: {
        fromSource(frame, payload) {
          if (frame.type === 'compressedPages' && ++frames % 4 === 0 && frames < 12) {
            link.cut?.();
            return undefined;
          }
          return { frame, payload };
        },
      },
      migrate: {
        encodings: [near.make()],
        adaptiveEncodings: false,
        pageChannels,
        random: () => 0.5,
        policy: switchAfter(3),
        verify: true,
      },
      receive: { encodings: [far.make()] },
    });
    link.cut = () => toy.link.cut();
    expectMoved(toy, await toy.settled());
    expect(near.encoders).toBeGreaterThanOrEqual(3 * Math.max(1, pageChannels));
  });

  test('that throws ends the migration, and says its name', async () => {
    const encodings = [
      ledger({
        encoder: () => ({
          encode() {
            throw new Error('out of ink');
          },
        }),
      }).make(),
    ];
    const toy = start({
      source: plainGuest(),
      destination: new ToyVm(BLOCKS, { running: false }),
      migrate: { encodings, adaptiveEncodings: false, pageChannels },
      receive: { encodings: [ledger().make()] },
    });
    expectStayed(toy, await toy.settled(), 'GODWIT_INTERNAL');
    await expect(toy.migration.result).rejects.toThrow(/"ledger".*out of ink/);
  });

  test('that makes much more of pages than they are is refused: what it remembers would be wrong', async () => {
    const encodings = [
      ledger({ encoder: () => ({ encode: (_pages, _which, mostBytes) => new Uint8Array(mostBytes + 1) }) }).make(),
    ];
    const toy = start({
      source: plainGuest(),
      destination: new ToyVm(BLOCKS, { running: false }),
      migrate: { encodings, adaptiveEncodings: false, pageChannels },
      receive: { encodings: [ledger().make()] },
    });
    expectStayed(toy, await toy.settled(), 'GODWIT_INTERNAL');
    await expect(toy.migration.result).rejects.toThrow(/return undefined, and leave the state as it was/);
  });

  test.each([
    ['too few', (bytes: Uint8Array) => bytes.subarray(1)],
    ['too many', (bytes: Uint8Array) => Uint8Array.of(...bytes, 0)],
  ])('whose decoder gives %s bytes: nothing is written to guest memory', async (_, decode) => {
    const destination = new ToyVm(BLOCKS, { running: false });
    const toy = start({
      source: plainGuest(),
      destination,
      migrate: { encodings: [ledger().make()], adaptiveEncodings: false, pageChannels },
      receive: {
        encodings: [
          ledger({
            decoder: () => ({
              decode: (_bytes, { pageSize, runs }) =>
                decode(new Uint8Array(runs.reduce((sum, count, i) => sum + (i % 2) * count, 0) * pageSize).fill(9)),
            }),
          }).make(),
        ],
      },
    });
    expectStayed(toy, await toy.settled(), 'GODWIT_PROTOCOL');
    expect(destination.memory.blocks[0]?.bytes.every((byte) => byte === 0)).toBe(true);
  });
});

test('a source whose channels would need too much state is refused before a page moves', async () => {
  const encodings = [ledger({ stateBytes: 2 ** 29 }).make()];
  const moved = start({ migrate: { encodings, pageChannels: 2 }, receive: { encodings } });
  expect((await moved.settled()).code).toBeUndefined();
  const toy = start({ migrate: { encodings, pageChannels: 3 }, receive: { encodings } });
  expectStayed(toy, await toy.settled(), 'GODWIT_LIMIT_EXCEEDED');
  await expect(toy.migration.result).rejects.toThrow(/"ledger".*1610612736 bytes for 3 page channels/);
});

test('pages in a stream that was not agreed on are refused', async () => {
  const source = plainGuest();
  const link = memoryLink({
    fromSource: (frame, payload) => ({
      frame: frame.type === 'pages' ? { ...frame, type: 'compressedPages', encoding: 'ledger' } : frame,
      payload,
    }),
  });
  const toy = start({
    source,
    destination: new ToyVm(BLOCKS, { running: false }),
    connector: link.connector,
    listener: link.listener,
  });
  expectStayed(toy, await toy.settled(), 'GODWIT_PROTOCOL');
});

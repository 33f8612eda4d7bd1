import { checkEncodings, makeEncoding } from '../encoding/page-encoding.js';
import type { PagesOfBatch } from '../encoding/stream-encoding.js';
import { Random } from '../simulation/random.js';
import { batchOf, type EncodingEnds, endsOf, pagesIn, wrongPieces } from './encoding-ends.js';
import type { EncodingFixture, SuiteRunner } from './encoding-fixture.js';
import { migrateEncoded } from './encoding-migration.js';
import { below, noise, pagesOfAGuest } from './encoding-samples.js';

/** Most bytes of pages in a batch. */
const LARGEST_BATCH = 4 * 2 ** 20;

/** Pages of a batch in most tests. */
const PAGES = 16;

/**
 * The guarantees of `Compression` and `StreamEncoding`, as tests that every encoding must pass: decoding gives back the encoded pages,
 * channels do not influence each other, damaged bytes do no harm, and a guest moves with the encoding over a link that is lost.
 *
 * @example
 * import { describe, test } from 'node:test';
 * encodingSuite('dedupe', { describe, test }, { make: () => dedupe() });
 */
export function encodingSuite(name: string, { describe, test }: SuiteRunner, fixture: EncodingFixture): void {
  const { pageSize = 4096 } = fixture;
  const batches = (count: number, seed: number): Uint8Array[] =>
    Array.from({ length: count }, (_, i) => pagesOfAGuest(PAGES, pageSize, seed + i));
  const fresh = (): EncodingEnds => endsOf(fixture.make(), fixture.make());

  describe(`${name} as an encoding`, () => {
    test('says what it is', async () => {
      const encoding = fixture.make();
      checkEncodings([encoding]);
      check(fixture.make().name === encoding.name, 'both ends have the same name for it');
      check(encoding.expectedMsPerMiB > 0, `expectedMsPerMiB is more than 0, got ${encoding.expectedMsPerMiB}`);
      if (encoding.kind === 'compression') return;
      const { stateBytes } = encoding;
      check(Number.isSafeInteger(stateBytes) && stateBytes >= 0, `stateBytes is a number of bytes, got ${stateBytes}`);
    });

    const { recipe } = fixture.make();
    if (recipe !== undefined) {
      test('is made again from its recipe, as the thread of a page channel makes it', async () => {
        const again = await makeEncoding(structuredClone(recipe));
        const { name: own } = fixture.make();
        check(again.name === own, `the recipe makes "${own}", got "${again.name}"`);
        if (again.kind === 'delta') throw new Error('the recipe makes an encoding of whole pages');
        await checkRoundTrip(endsOf(again, fixture.make()), batches(4, 1), pageSize);
      });
    }

    test('gives back what it was given, batch after batch', async () => {
      await checkRoundTrip(fresh(), batches(60, 100), pageSize);
    });

    test('gives back pages of the sample, and makes them smaller', async () => {
      const sample = fixture.sample ?? pagesOfAGuest(64, pageSize, 3);
      check(sample.length > 0 && sample.length % pageSize === 0, `\`sample\` has whole pages of ${pageSize} bytes`);
      let sent = 0;
      let whole = 0;
      const ends = fresh();
      for (let at = 0; at < sample.length; at += PAGES * pageSize) {
        const pages = sample.slice(at, at + PAGES * pageSize);
        const bytes = await checkRoundTrip(ends, [pages], pageSize, at / pageSize);
        sent += bytes;
        whole += pages.length;
      }
      check(sent < whole, `${whole} bytes became ${sent}: set \`sample\` to contents that this encoding is for`);
    });

    test('pages that it cannot make smaller change nothing for those after them', async () => {
      const ends = fresh();
      const mixed = batches(8, 200).flatMap((pages, i) => [noise(PAGES, pageSize, i), pages]);
      await checkRoundTrip(ends, mixed, pageSize);
    });

    test('does not write to the pages, and keeps nothing of their memory', async () => {
      const ends = fresh();
      for (const pages of batches(12, 300)) {
        const memory = pages.slice();
        const which = batchOf(pageSize, 0, pages.length);
        const bytes = await ends.encode(memory, which);
        check(same(memory, pages), '`encode` does not write to the pages');
        // The guest goes on writing.
        memory.fill(0xa5);
        if (bytes !== undefined) check(same(await ends.decode(bytes, which), pages), 'nothing is read after `encode`');
      }
    });

    test('gives its result away: the next batch does not change it', async () => {
      const { encode, decode } = fresh();
      const all = batches(6, 400);
      const sent: (Uint8Array | undefined)[] = [];
      for (const pages of all) sent.push(await encode(pages.slice(), batchOf(pageSize, 0, pages.length)));
      for (const [i, bytes] of sent.entries()) {
        const pages = all[i] as Uint8Array;
        const room = bytes?.slice();
        if (bytes === undefined || room === undefined) continue;
        const decoded = (await decode(room, batchOf(pageSize, 0, pages.length))).slice();
        check(same(bytes, room), '`decode` does not write to the bytes');
        check(same(decoded, pages), `batch ${i} is as it was when it is written after later ones were encoded`);
      }
    });

    test('keeps its channels apart, those of one encoding and those after a lost link', async () => {
      const near = fixture.make();
      const far = fixture.make();
      const channels = Array.from({ length: 3 }, () => endsOf(near, far));
      for (let i = 0; i < 12; i++) {
        for (const [channel, ends] of channels.entries()) {
          await checkRoundTrip(ends, batches(1, 500 + channel * 7 + i), pageSize);
        }
        // This stands for a lost connection, whose encoder and decoder are not used any more.
        if (i % 4 === 3) channels[i % 3] = endsOf(near, far);
      }
    });

    test('takes the largest batch, and the smallest, in many runs', async () => {
      const ends = fresh();
      const most = Math.floor(LARGEST_BATCH / pageSize);
      const large = new Uint8Array(most * pageSize);
      const some = pagesOfAGuest(Math.min(most, 64), pageSize, 5);
      for (let at = 0; at < large.length; at += some.length) large.set(some.subarray(0, large.length - at), at);
      await checkRoundTrip(ends, [large, large.subarray(0, pageSize), large], pageSize);
      const scattered: number[] = [];
      for (let page = 0; page < 64; page++) scattered.push(page * 3, 1);
      const which = { pageSize, block: 1, runs: scattered };
      const pages = pagesOfAGuest(64, pageSize, 6);
      const bytes = await ends.encode(pages.slice(), which);
      if (bytes !== undefined) check(same(await ends.decode(bytes, which), pages), 'runs of one page each');
    });

    test('damaged bytes give an error, or no more than the pages', async () => {
      const random = new Random(7);
      const pages = pagesOfAGuest(PAGES, pageSize, 8);
      const which = batchOf(pageSize, 0, pages.length);
      for (let i = 0; i < 300; i++) {
        const { encode, decode } = fresh();
        const first = await encode(pages.slice(), which);
        const second = await encode(pages.slice(), which);
        if (first !== undefined && i % 3 > 0) await decode(first, which);
        await survives(decode, damaged(second ?? first ?? pages, random, i), which);
        // The bytes are decoded as batches of fewer pages than they have, and of more.
        const bytes = (second ?? first ?? pages).slice();
        await survives(decode, bytes, batchOf(pageSize, 0, i % 2 === 0 ? pageSize : 2 * pages.length));
      }
      await checkRoundTrip(fresh(), batches(2, 9), pageSize);
    });

    for (const vector of fixture.vectors ?? []) {
      test(`decodes the vector "${vector.name}"`, async () => {
        const wrong = await wrongPieces(fixture, vector);
        check(wrong.length === 0, `${wrong.join('; ')}: another format needs another name`);
      });
    }

    for (const pageChannels of [0, 2]) {
      for (const cut of [false, true]) {
        const over = cut ? 'a link that is lost in the middle of it' : 'a link that holds';
        test(`moves a guest over ${over} (pageChannels: ${pageChannels})`, async () => {
          const wrong = await migrateEncoded(fixture, pageSize, { pageChannels, cut, postcopy: false });
          check(wrong === undefined, wrong ?? '');
        });

        test(`sends pages after a guest that runs without them, over ${over} (pageChannels: ${pageChannels})`, async () => {
          const wrong = await migrateEncoded(fixture, pageSize, { pageChannels, cut, postcopy: true });
          check(wrong === undefined, wrong ?? '');
        });
      }
    }
  });
}

/**
 * Encodes and decodes batches in order; returns the bytes that they take. Throws when the decoded pages differ from the encoded ones.
 */
async function checkRoundTrip(
  { encode, decode }: EncodingEnds,
  batches: readonly Uint8Array[],
  pageSize: number,
  from = 0,
): Promise<number> {
  let page = from;
  let sent = 0;
  for (const pages of batches) {
    const which = batchOf(pageSize, page, pages.length);
    page += pages.length / pageSize;
    const bytes = await encode(pages.slice(), which);
    sent += Math.min(bytes?.length ?? pages.length, pages.length);
    if (bytes === undefined) continue;
    const back = await decode(bytes, which);
    check(same(back, pages), `${pages.length} bytes of pages come back as they were (${back.length} came)`);
  }
  return sent;
}

/** Decodes bytes that may be anything. */
async function survives(decode: EncodingEnds['decode'], bytes: Uint8Array, which: PagesOfBatch): Promise<void> {
  let result: Uint8Array;
  try {
    result = await decode(bytes, which);
  } catch {
    return;
  }
  const most = pagesIn(which) * which.pageSize;
  check(
    result.length <= most,
    `damaged bytes gave ${result.length} bytes, though the pages have ${most}: check lengths first`,
  );
}

/** Bytes that were cut, changed, lengthened or made up. */
function damaged(bytes: Uint8Array, random: Random, i: number): Uint8Array {
  if (i % 4 === 0) return bytes.slice(0, below(random, bytes.length));
  if (i % 4 === 1) return Uint8Array.from({ length: below(random, 400) }, () => below(random, 256));
  const copy = new Uint8Array(bytes.length + (i % 4 === 2 ? below(random, 40) : 0));
  copy.set(bytes);
  if (i % 4 === 3 && copy.length > 0) for (let n = 0; n < 4; n++) copy[below(random, copy.length)] = below(random, 256);
  return copy;
}

function same(one: Uint8Array, other: Uint8Array): boolean {
  return one.length === other.length && one.every((byte, i) => byte === other[i]);
}

function check(holds: boolean, what: string): void {
  if (!holds) throw new Error(what);
}

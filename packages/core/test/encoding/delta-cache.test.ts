import { delta } from '@godwit/core';
import { BufferMemory, engineParts } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

const { DeltaCache, SentEncodings } = engineParts;

const PAGE = 64;
const cacheOf = (slots: number) => new DeltaCache(DeltaCache.storage(slots * PAGE, PAGE));

/** What happens to a page in a round. */
type Fate = 'good delta' | 'bad delta' | 'zero' | 'raw';

interface Attempt {
  readonly pages: readonly { readonly page: number; readonly fate: Fate; readonly received: boolean }[];
  /** Whether the round ends, or the link is lost before it does; or whether the destination starts anew then. */
  readonly end: 'acknowledged' | 'lost' | 'restarted';
}

const attempts: fc.Arbitrary<readonly Attempt[]> = fc.array(
  fc.record({
    pages: fc.uniqueArray(
      fc.record({
        page: fc.nat(40),
        fate: fc.constantFrom<Fate>('good delta', 'good delta', 'good delta', 'bad delta', 'zero', 'raw'),
        received: fc.boolean(),
      }),
      { selector: ({ page }) => page, maxLength: 30 },
    ),
    end: fc.constantFrom('acknowledged', 'acknowledged', 'acknowledged', 'lost', 'restarted'),
  }),
  { maxLength: 25 },
);

/**
 * Plays a source with the cache against a destination that is a Map. A page whose round was cut has a version there that
 * nobody knows, unless the destination says that it has got it.
 */
function play(slots: number, script: readonly Attempt[], cache = cacheOf(slots)): { hits: number; fills: number } {
  const { words } = cache.pages;
  const there = new Map<number, number | 'unknown'>();
  const counts = { hits: 0, fills: 0 };
  let version = 1;
  let round = 1;
  let owed: number[] = [];
  let got = new Set<number>();
  for (const { pages, end } of script) {
    const borrowed = new Map<number, number>();
    const sent = new Map<number, number>();
    const received = new Set<number>();
    const fates = new Map(pages.filter(({ page }) => !got.has(page)).map((one) => [one.page, one]));
    for (const page of owed) if (!fates.has(page)) fates.set(page, { page, fate: 'good delta', received: false });
    for (const { page, fate, received: arrived } of [...fates.values()].sort((a, b) => a.page - b.page)) {
      const content = version++;
      if (arrived) received.add(page);
      if (fate === 'zero' || fate === 'raw') {
        cache.drop(page, 1);
        sent.set(page, fate === 'zero' ? 0 : content);
        continue;
      }
      const slot = cache.look(page, round, true);
      if (cache.found !== 'bypass') {
        expect(borrowed.get(slot) ?? page).toBe(page);
        borrowed.set(slot, page);
      }
      if (cache.found === 'hit') {
        counts.hits++;
        expect(words[(slot * PAGE) / 4]).toBe(there.get(page));
        if (fate === 'bad delta') cache.failed(slot, round);
        else cache.paid(slot);
      }
      if (cache.found === 'fill') counts.fills++;
      if (cache.found !== 'bypass') words[(slot * PAGE) / 4] = content;
      sent.set(page, content);
    }
    // Nothing that was sent from a slot was overwritten in the same round.
    for (const [slot, page] of borrowed) expect(words[(slot * PAGE) / 4]).toBe(sent.get(page));
    if (end === 'restarted') {
      cache.clear();
      there.clear();
      owed = [];
      got = new Set();
      round = 1;
      continue;
    }
    for (const [page, content] of sent) there.set(page, end === 'lost' && !received.has(page) ? 'unknown' : content);
    if (end === 'lost') {
      for (const page of sent.keys()) if (received.has(page)) got.add(page);
      owed = [...new Set([...owed, ...sent.keys()])].filter((page) => !got.has(page));
    } else {
      owed = [];
      got = new Set();
      round++;
    }
  }
  return counts;
}

describe('the cache of sent versions', () => {
  test('never takes for the version of the destination what that may not have', () => {
    for (const slots of [8, 16, 64])
      fc.assert(
        fc.property(attempts, (script) => void play(slots, script)),
        { numRuns: 400 },
      );
  });

  test('nor over memory that is not shared', () => {
    const plain = (slots: number) => {
      const { pageSize, sets, buffer } = DeltaCache.storage(slots * PAGE, PAGE);
      return new DeltaCache({ pageSize, sets, buffer: new ArrayBuffer(buffer.byteLength) });
    };
    fc.assert(fc.property(attempts, (script) => void play(16, script, plain(16))));
  });

  test('finds every page again that fits', () => {
    const pages = Array.from({ length: 41 }, (_, page) => ({ page, fate: 'good delta' as const, received: false }));
    const rounds = Array.from({ length: 10 }, () => ({ pages, end: 'acknowledged' as const }));
    expect(play(48, rounds)).toEqual({ hits: 41 * 9, fills: 41 });
  });

  test('keeps a part of a working set that is larger than it', () => {
    const pages = Array.from({ length: 41 }, (_, page) => ({ page, fate: 'good delta' as const, received: false }));
    const rounds = Array.from({ length: 20 }, () => ({ pages, end: 'acknowledged' as const }));
    const { hits } = play(16, rounds);
    expect(hits).toBeGreaterThan(16 * 15);
  });

  test('lets pages rest whose deltas do not pay, longer each time, and tries again', () => {
    const cache = cacheOf(8);
    const found: string[] = [];
    for (let round = 1; round <= 40; round++) {
      const slot = cache.look(3, round, true);
      found.push(cache.found[0] as string);
      if (cache.found === 'hit') cache.failed(slot, round);
    }
    // Two failures, a rest of four rounds; one more failure, a rest of eight; and so on.
    expect(found.join('')).toBe('fhhbbbfhbbbbbbbfhbbbbbbbbbbbbbbbfhbbbbbb');
  });

  test('a delta that paid makes up for those that did not', () => {
    const cache = cacheOf(8);
    for (let round = 1; round <= 40; round++) {
      const slot = cache.look(3, round, true);
      expect(cache.found).toBe(round === 1 ? 'fill' : 'hit');
      if (round > 1 && round % 2 === 0) cache.failed(slot, round);
      else cache.paid(slot);
    }
  });

  test('two threads see one cache', () => {
    const mine = cacheOf(16);
    const theirs = new DeltaCache(mine.storage);
    expect([mine.used, theirs.used]).toEqual([false, false]);
    const slot = mine.look(5, 1, true);
    mine.pages.words[(slot * PAGE) / 4] = 99;
    expect(theirs.used).toBe(true);
    expect(theirs.look(5, 2, true)).toBe(slot);
    expect(theirs.found).toBe('hit');
    expect(theirs.pages.words[(slot * PAGE) / 4]).toBe(99);
    theirs.drop(0, 1e9);
    mine.look(5, 3, true);
    expect(mine.found).toBe('fill');
  });

  test('a run of more pages than there are slots is dropped like any other', () => {
    const cache = cacheOf(8);
    for (let page = 0; page < 8; page++) cache.look(page, 1, true);
    cache.drop(2, 4);
    cache.drop(6, 1000);
    const found = Array.from({ length: 8 }, (_, page) => {
      cache.look(page, 2, false);
      return cache.found;
    });
    expect(found).toEqual(['hit', 'hit', ...Array(6).fill('bypass')]);
  });
});

test('what a thread that was ended by force has left locked is open for the next connection', () => {
  const sent = new SentEncodings([delta()], true);
  const memory = new BufferMemory([{ id: 'ram', guestPhysicalAddress: 0, byteLength: 4096 }]);
  sent.welcomed(sent.features, memory);
  const { cache } = sent.shared();
  if (cache === undefined) throw new Error('no deltas');
  const { buffer, sets } = cache;
  const locks = new Int32Array(buffer, buffer.byteLength - (sets + 1) * 4, sets);
  locks.fill(1);
  sent.connectionBegins();
  // First, since `look` would wait for ever.
  expect(locks.some((lock) => lock !== 0)).toBe(false);
  expect(new DeltaCache(cache).look(3, 1, true)).toBeGreaterThanOrEqual(0);
});

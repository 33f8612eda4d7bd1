import { CopyBuffer, WriteStreams } from '@godwit/workers/unstable';
import { expect, test } from '@jest/globals';
import fc from 'fast-check';

test('copies come out in order, in runs of pages and slots one after the other, like a list', () => {
  const puts = fc.array(fc.record({ put: fc.boolean(), block: fc.integer({ min: 0, max: 1 }), page: fc.nat(4) }), {
    maxLength: 200,
  });
  fc.assert(
    fc.property(puts, fc.integer({ min: 1, max: 7 }), fc.integer({ min: 1, max: 5 }), (steps, slots, most) => {
      const buffer = new CopyBuffer(CopyBuffer.parts(4096, slots, 4096));
      const model: { block: number; page: number; slot: number }[] = [];
      let put = 0;
      let high = 0;
      for (const { put: putting, block, page } of steps) {
        if (putting) {
          const { room } = buffer;
          expect(room).toBe(model.length < slots ? 4096 + (put % slots) * 4096 : -1);
          if (room === -1) continue;
          // Often the page behind the last one: runs.
          const next = model.at(-1);
          const place = next !== undefined && page > 0 ? { block: next.block, page: next.page + 1 } : { block, page };
          model.push({ ...place, slot: put++ % slots });
          buffer.put(place.block, place.page);
          high = Math.max(high, model.length);
        } else {
          const count = buffer.next(most);
          const [first] = model;
          expect(count === 0).toBe(first === undefined);
          if (first === undefined) continue;
          expect([buffer.block, buffer.page, buffer.slot]).toEqual([first.block, first.page, first.slot]);
          const isRun = (n: number): boolean =>
            model
              .slice(0, n)
              .every(
                (one, i) => one.block === first.block && one.page === first.page + i && one.slot === first.slot + i,
              );
          expect(count <= most && count <= model.length && isRun(count)).toBe(true);
          expect(count === most || count === model.length || !isRun(count + 1)).toBe(true);
          buffer.take(count);
          model.splice(0, count);
        }
        expect([buffer.used, buffer.high]).toEqual([model.length, high]);
      }
    }),
  );
});

test('its counters may run over', () => {
  const parts = CopyBuffer.parts(0, 4, 4096);
  new Int32Array(parts.counters).fill(2 ** 31 - 2, 0, 2);
  const buffer = new CopyBuffer(parts);
  for (let i = 0; i < 4; i++) buffer.put(0, i);
  expect([buffer.used, buffer.room]).toEqual([4, -1]);
  for (let page = 0; page < 4; ) {
    const count = buffer.next(4);
    expect(buffer.page).toBe(page);
    buffer.take(count);
    page += count;
  }
  expect(buffer.used).toBe(0);
});

test('who writes in order is followed, beside who does not', () => {
  const streams = new WriteStreams();
  let [one, other] = [100, 5000];
  const runs: number[][] = [[], []];
  for (let i = 0; i < 8; i++) {
    for (const [block, list] of runs.entries()) {
      const page = block === 0 ? one : other;
      const pages = streams.pagesAt(block, page);
      list.push(pages);
      if (block === 0) one += pages;
      else other += pages;
    }
    // At random.
    expect(streams.pagesAt(0, 100_000 + i * 7919)).toBe(1);
  }
  expect(runs).toEqual([
    [1, 2, 4, 8, 16, 32, 32, 32],
    [1, 2, 4, 8, 16, 32, 32, 32],
  ]);
  // The same page of another block is another stream.
  expect(streams.pagesAt(2, one)).toBe(1);
});

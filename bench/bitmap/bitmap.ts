import { DirtyBitmap, PageRunList } from '@godwit/core';
import { median, type Report } from '../report.js';

const PAGE_BYTES = 4096;

/**
 * Measures the time of a round before a byte is sent, for a large guest: the kernel's words are ORed into the engine's bitmap (the
 * harvest), counted, and walked as coalesced runs. 1 % of the pages are dirty, scattered at random.
 */
export async function bitmapBenchmark(options: {
  readonly byteLength: number;
  readonly runs: number;
}): Promise<Report> {
  const pages = options.byteLength / PAGE_BYTES;
  const fromKernel = new DirtyBitmap(pages);
  let seed = 1;
  for (let i = 0; i < pages / 100; i++) {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    fromKernel.set(Math.floor((seed / 2 ** 32) * pages));
  }
  const bitmap = new DirtyBitmap(pages);
  const list = new PageRunList(1024);
  const harvest: number[] = [];
  const walk: number[] = [];
  let found = 0;
  const rounds = Math.max(5, options.runs * 5);
  for (let round = 0; round < rounds + 3; round++) {
    bitmap.clearAll();
    const start = performance.now();
    bitmap.orWords(fromKernel.words, 0);
    const harvested = performance.now();
    list.clear();
    bitmap.runs(list);
    found = list.pageCount;
    const walked = performance.now();
    // The first rounds are warm-up for the JIT compiler.
    if (round < 3) continue;
    harvest.push(harvested - start);
    walk.push(walked - harvested);
  }
  if (found !== fromKernel.count()) throw new Error('the walk lost pages');
  return {
    benchmark: `bitmap: ${options.byteLength / 2 ** 30} GiB of guest, ${found} of ${pages} pages dirty in ${list.length} runs, median of ${rounds}`,
    rows: [
      { name: "OR the kernel's words into the bitmap", value: median(harvest), unit: 'ms' },
      { name: 'walk and coalesce', value: median(walk), unit: 'ms' },
      { name: 'both', value: median(harvest) + median(walk), unit: 'ms', atMost: 3 },
    ],
    notes: [],
  };
}

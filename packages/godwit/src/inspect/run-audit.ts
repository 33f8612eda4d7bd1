import type { HelloFrame, NamedPages } from '@godwit/core';

/** The number of pages that a frame names, as runs or as a bitmap, and what is wrong with them. */
export function checkNamed(
  hello: HelloFrame | undefined,
  block: number,
  { runs, firstPage = 0, words }: NamedPages,
): { readonly pages: number; readonly wrong?: string } {
  if (words === undefined) return checkRuns(hello, block, runs);
  const found: number[] = [];
  for (const [i, word] of words.entries()) {
    for (let bit = 0; bit < 32; bit++) if ((word >>> bit) & 1) found.push(firstPage + i * 32 + bit, 1);
  }
  if (runs.length > 0) return { pages: found.length / 2, wrong: 'has runs and a bitmap' };
  if (firstPage % 32 !== 0) return { pages: found.length / 2, wrong: `has a bitmap from page ${firstPage} on` };
  return checkRuns(hello, block, found);
}

/** The number of pages in `runs`, and what is wrong with them. Without a known block only their order is checked. */
export function checkRuns(
  hello: HelloFrame | undefined,
  block: number,
  runs: readonly number[],
): { readonly pages: number; readonly wrong?: string } {
  let pages = 0;
  let end = 0;
  let wrong: string | undefined;
  for (let i = 0; i + 1 < runs.length; i += 2) {
    const first = runs[i] as number;
    const count = runs[i + 1] as number;
    if (count === 0) wrong ??= `has an empty run at page ${first}`;
    if (i > 0 && first < end) wrong ??= `has a run at page ${first}, which is not behind the one before (${end})`;
    end = first + count;
    pages += count;
  }
  if (runs.length === 0) wrong ??= 'has no runs';
  if (hello !== undefined && hello.pageSize > 0) {
    const known = hello.blocks[block];
    if (known === undefined) {
      wrong ??= `is of block ${block}; the hello lists ${hello.blocks.length}`;
    } else if (known.shared) {
      wrong ??= `is of block "${known.id}", which both sides share`;
    } else if (end > known.byteLength / hello.pageSize) {
      wrong ??= `reaches to page ${end} of block "${known.id}", which has ${known.byteLength / hello.pageSize}`;
    }
  }
  return wrong === undefined ? { pages } : { pages, wrong };
}

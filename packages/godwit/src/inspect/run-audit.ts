import type { HelloFrame } from '@godwit/core';

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
    } else if (end > known.byteLength / hello.pageSize) {
      wrong ??= `reaches to page ${end} of block "${known.id}", which has ${known.byteLength / hello.pageSize}`;
    }
  }
  return wrong === undefined ? { pages } : { pages, wrong };
}

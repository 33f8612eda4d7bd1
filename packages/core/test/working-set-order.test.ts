import { DirtyBitmaps, type Frame } from '@godwit/core';
import { ToyFaultService, ToyVm } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { expectMoved, BLOCKS as OTHER_BLOCKS, PAGE, start } from './toy-migration.js';

const PAGES = 600;
const BLOCKS = [0, 1].map((index) => ({
  id: `ram${index}`,
  guestPhysicalAddress: index * 2 ** 32,
  byteLength: PAGES * PAGE,
}));
/** Pages of the second block that the guest needs first. */
const HOT = [7, 8, 9, 300, 599];

/** A guest that has written all of its memory, and the working set of it. */
function writtenVm(): { readonly source: ToyVm; readonly workingSet: DirtyBitmaps } {
  const source = new ToyVm(BLOCKS);
  for (const block of BLOCKS.keys()) {
    for (let page = 0; page < PAGES; page++)
      source.deviceWrite(block, page * PAGE, new Uint8Array(PAGE).fill(1 + (page % 250)));
  }
  const workingSet = new DirtyBitmaps(source.memory);
  for (const page of HOT) workingSet.at(1).set(page);
  return { source, workingSet };
}

/** The pages that the source sends by itself after `go`, as `block/page`, in order. */
async function sentAfterGo(hot: boolean, pageChannels: number): Promise<string[]> {
  const { source, workingSet } = writtenVm();
  const sent: string[] = [];
  let gone = false;
  // Whatever the first round has sent before the switchover is dirty again: all pages are missing at the destination.
  source.onPause = () => {
    for (const block of BLOCKS.keys()) {
      for (let page = 0; page < PAGES; page++) source.deviceWrite(block, page * PAGE, new Uint8Array(PAGE).fill(251));
    }
  };
  const toy = start({
    source,
    destination: new ToyVm(BLOCKS, { running: false }),
    link: {
      fromSource: (frame: Frame, payload) => {
        if (frame.type === 'go') gone = true;
        if (gone && frame.type === 'pages' && frame.round !== 0) {
          for (let i = 0; i < frame.runs.length; i += 2) {
            const first = frame.runs[i] as number;
            for (let page = first; page < first + (frame.runs[i + 1] as number); page++)
              sent.push(`${frame.block}/${page}`);
          }
        }
        return { frame, payload };
      },
    },
    migrate: {
      ...{ postcopy: true, policy: () => ({ action: 'postcopy', reason: 'at once' }), pageChannels },
      ...(hot && { workingSet }),
    },
    receive: { faults: new ToyFaultService() },
  });
  expectMoved(toy, await toy.settled());
  return sent;
}

describe('in post-copy the working set goes first', () => {
  test.each([0, 1])('and every other page after it, once (pageChannels: %d)', async (pageChannels) => {
    const sent = await sentAfterGo(true, pageChannels);
    expect(sent.slice(0, HOT.length)).toEqual(HOT.map((page) => `1/${page}`));
    expect([sent.length, new Set(sent).size]).toEqual([2 * PAGES, 2 * PAGES]);
  });

  test('and without one the pages go in the order of their addresses', async () => {
    const sent = await sentAfterGo(false, 1);
    expect(sent).toEqual(BLOCKS.flatMap((_, block) => Array.from({ length: PAGES }, (__, page) => `${block}/${page}`)));
  });
});

describe('a working set is refused before a page moves', () => {
  test('where nothing has an order of pages', async () => {
    const { source, workingSet } = writtenVm();
    const toy = start({ source, destination: new ToyVm(BLOCKS, { running: false }), migrate: { workingSet } });
    await expect(toy.migration.result).rejects.toMatchObject({
      code: 'GODWIT_UNSUPPORTED',
      message: expect.stringMatching(/^workingSet says which pages go first in post-copy .* leave it out$/),
    });
    await toy.settled();
    expect(source.pauses).toBe(0);
  });

  test('where it is of other memory', async () => {
    const { source } = writtenVm();
    const workingSet = new DirtyBitmaps(new ToyVm(OTHER_BLOCKS).memory);
    const toy = start({ source, destination: new ToyVm(BLOCKS, { running: false }), migrate: { workingSet } });
    toy.migration.result.catch(() => toy.incoming.cancel());
    await expect(toy.migration.result).rejects.toMatchObject({
      code: 'GODWIT_INVALID_ARGUMENT',
      message: expect.stringMatching(/a bitmap for each RAM block, of 600, 600 pages; it has/),
    });
    await toy.settled();
  });

  test('where it is none', () => {
    const { source } = writtenVm();
    const workingSet = [1, 2, 3] as unknown as DirtyBitmaps;
    expect(() => start({ source, migrate: { workingSet } })).toThrow(/workingSet must be DirtyBitmaps/);
  });
});

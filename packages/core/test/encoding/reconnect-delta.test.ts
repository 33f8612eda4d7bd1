import { delta, type Frame } from '@godwit/core';
import { ToyVm } from '@godwit/core/testing';
import { describe, expect, jest, test } from '@jest/globals';
import { expectMoved, PAGE, random, start, type Toy } from '../toy-migration.js';

jest.setTimeout(60_000);

const PAGES = 120;
const BLOCKS = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: PAGES * PAGE }];

/** Pages that are no pattern, so that a version that is not the destination's shows in every byte. */
function guest(): ToyVm {
  const next = random(3);
  const vm = new ToyVm(BLOCKS);
  const words = new Uint32Array((PAGES * PAGE) / 4);
  for (let i = 0; i < words.length; i++) words[i] = next();
  vm.write(0, 0, new Uint8Array(words.buffer));
  return vm;
}

/** Cuts the link at these frames, counted over all connections from round 2 on: where deltas are on their way. */
function cutAt(cuts: readonly number[], delivered: boolean, pageChannels: number): { toy: Toy; frames: () => number } {
  const source = guest();
  const next = random(5);
  let frames = 0;
  const write = () => {
    // Two thirds of the pages, a few bytes of each: most of them in every round.
    for (let page = 0; page < PAGES && source.running; page++) {
      if (next() % 3 > 0) source.write(0, page * PAGE + (next() % (PAGE - 2)), Uint8Array.of(next(), next()));
    }
  };
  const tap = (frame: Frame, payload: Uint8Array | undefined) => {
    if ('round' in frame && frame.round >= 2 && frame.type !== 'switchover' && cuts.includes(++frames)) {
      // What was written between the two sendings of a round must not become part of either side's version.
      write();
      toy.link.cut({ delivered });
      return undefined;
    }
    return { frame, payload };
  };
  const toy: Toy = start({
    source,
    destination: new ToyVm(BLOCKS, { running: false }),
    link: { fromSource: tap, fromDestination: tap, copies: 'late' },
    migrate: {
      encodings: [delta()],
      adaptiveEncodings: false,
      verify: true,
      pageChannels,
      random: () => 0.5,
      policy: ({ outcome }) => ({ action: outcome.round < 6 ? 'continue' : 'switchover', reason: 'test' }),
    },
  });
  toy.migration.subscribe({
    next: ({ type }) => {
      if (type === 'round' || type === 'round-start') write();
    },
    error: () => {},
  });
  return { toy, frames: () => frames };
}

describe.each([0, 2])('deltas over a link that is lost, with %i page channels', (pageChannels) => {
  test.each([true, false])('once, at any frame of any round (what was on its way arrives: %s)', async (delivered) => {
    let deltas = 0;
    let cut = 0;
    for (let at = 1; ; at++) {
      const { toy, frames } = cutAt([at], delivered, pageChannels);
      const ends = await toy.settled();
      if (frames() < at) break;
      const summary = await toy.migration.result.catch(() => undefined);
      // A link that is lost with the guest paused ends the migration: the guest runs on, and that is tested elsewhere.
      if (summary === undefined) {
        expect(toy.source.running).toBe(true);
        continue;
      }
      cut++;
      expectMoved(toy, ends);
      deltas += summary.pages.delta;
    }
    expect(cut).toBeGreaterThan(10);
    expect(deltas / cut).toBeGreaterThan(PAGES);
  });

  test('again and again', async () => {
    const { toy } = cutAt([2, 5, 9, 14, 15, 20], false, pageChannels);
    expectMoved(toy, await toy.settled());
    expect((await toy.migration.result).verified).toBe(true);
  });
});

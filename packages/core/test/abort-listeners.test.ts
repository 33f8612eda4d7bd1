import { getEventListeners } from 'node:events';
import type { Frame } from '@godwit/core';
import { FaultyDevice, type FrameTap, ToyVm, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { Count, CUTS, countListeners, LONG } from './count-listeners.js';
import { BLOCKS, expectMoved, filledVm, start, switchAfter, type Toy, type ToyOptions } from './toy-migration.js';

countListeners();

/** Cuts the link 30 times, as soon as a frame of this type is written; each later time at a frame of the type `then`. */
async function cutAt(
  from: 'source' | 'destination',
  type: Frame['type'],
  then = type,
  options: ToyOptions = {},
): Promise<Count> {
  const count = new Count();
  const [sourceEnds, destinationEnds] = [new AbortController(), new AbortController()];
  let toy: Toy | undefined;
  const tap =
    (direction: typeof from): FrameTap =>
    (frame, payload) => {
      if (direction === from && frame.type === (count.cuts === 0 ? type : then) && count.cuts < CUTS) {
        count.take();
        toy?.link.cut();
      }
      return { frame, payload };
    };
  const clock = new VirtualClock();
  toy = start({
    source: Object.assign(filledVm(), { devices: [new FaultyDevice('uart', Uint8Array.of(1))] }),
    destination: new ToyVm(BLOCKS, { running: false, devices: [new FaultyDevice('uart')] }),
    link: { clock, fromSource: tap('source'), fromDestination: tap('destination') },
    clock,
    ...options,
    migrate: {
      clock,
      signal: sourceEnds.signal,
      policy: switchAfter(3),
      connectTimeoutMs: 600_000,
      ...LONG,
      ...options.migrate,
    },
    receive: { clock, signal: destinationEnds.signal, ...LONG, ...options.receive },
  });
  expectMoved(toy, await toy.settled());
  expect(count.cuts).toBe(CUTS);
  for (const { signal } of [sourceEnds, destinationEnds]) expect(getEventListeners(signal, 'abort')).toEqual([]);
  return count;
}

describe(`a link that is cut ${CUTS} times leaves no listener with a signal that lasts`, () => {
  test.each([
    ['source', 'hello', 'hello'],
    ['source', 'roundEnd', 'roundEnd'],
    ['source', 'switchover', 'switchover'],
    ['source', 'go', 'go'],
    ['source', 'roundEnd', 'hello'],
    ['destination', 'roundAck', 'roundAck'],
    ['destination', 'roundAck', 'resumed'],
    ['destination', 'ready', 'resumed'],
    ['destination', 'running', 'resumed'],
  ] as const)('by the %s at "%s", then at "%s"', async (from, type, then) => {
    (await cutAt(from, type, then)).expectConstant();
  });

  test('with page channels, and while it verifies', async () => {
    const options = { migrate: { verify: true, pageChannels: 2 } };
    (await cutAt('destination', 'verified', 'verified', options)).expectConstant();
  });
});

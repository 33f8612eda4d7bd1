import { type Frame, receive } from '@godwit/core';
import { type MemoryLink, memoryLink, ToyVm, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { BLOCKS, filledVm, PAGE, start, switchAfter, type Toy } from './toy-migration.js';

/** A migration whose first destination dies, far away, when `dies` says so of a frame; another one is near. */
function restarted(dies: (frame: Frame, source: ToyVm) => boolean) {
  const clock = new VirtualClock();
  const source = filledVm();
  let there: MemoryLink;
  const far: MemoryLink = memoryLink({
    clock,
    latencyMs: 100,
    fromSource: (frame, payload) => {
      if (there === far && dies(frame, source)) {
        there = near;
        far.cut();
        return undefined;
      }
      return { frame, payload };
    },
  });
  const near = memoryLink({ clock, latencyMs: 1 });
  there = far;
  const destination = new ToyVm(BLOCKS, { running: false });
  const toy: Toy = start({
    ...{ clock, source, destination, listener: near.listener },
    connector: { connect: (request, signal) => there.connector.connect(request, signal) },
    migrate: { policy: switchAfter(3), progressIntervalMs: 0 },
  });
  const prepare = () => new ToyVm(BLOCKS, { running: false });
  receive(far.listener, { prepare, clock, reconnectTimeoutMs: 0 }).result.catch(() => {});
  return { toy, source, destination };
}

const starts = ({ events }: Toy) =>
  events.flatMap((event) => (event.type === 'round-start' ? [[event.round, event.dirtyPages]] : []));

describe('a destination that was restarted', () => {
  test.each([
    [
      1,
      [
        [1, 32],
        [2, 32],
        [3, 0],
        [4, 0],
      ],
      0,
    ],
    [
      2,
      [
        [1, 32],
        [2, 2],
        [3, 32],
        [4, 0],
      ],
      1,
    ],
    [
      3,
      [
        [1, 32],
        [2, 2],
        [3, 2],
        [4, 32],
        [5, 0],
      ],
      2,
    ],
  ] as const)(
    'in round %i gets all that is populated, and nothing besides; the link is measured anew',
    async (round, rounds, before) => {
      const { toy, source, destination } = restarted((frame, { running }) => {
        if (frame.type !== 'roundEnd' || !running) return false;
        // A page that is written in each round, and one that is then given back.
        if (frame.round < round) {
          source.write(0, 2 * PAGE, Uint8Array.of(frame.round));
          source.write(0, 5 * PAGE, Uint8Array.of(frame.round));
          source.discard(0, { firstPage: 5, pageCount: 1 });
        }
        return frame.round === round;
      });
      const ends = await toy.settled();
      expect([ends.code, ends.receivedCode]).toEqual([undefined, undefined]);
      expect(starts(toy)).toEqual(rounds);
      const roundTrips = toy.events.flatMap((event) =>
        event.type === 'round' ? [event.round.prediction.roundTripMs] : [],
      );
      expect(roundTrips.map((ms) => ms > 100)).toEqual(
        [...Array(before).fill(true), false, false, false].slice(0, roundTrips.length),
      );
      expect(toy.events.filter(({ type }) => type === 'reconnected')).toMatchObject([{ restarted: true }]);
      expect([source.running, destination.running]).toEqual([false, true]);
      expect(source.memory.firstDifference(destination.memory)).toBeUndefined();
    },
  );
});

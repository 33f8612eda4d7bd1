import { type ConvergencePolicy, type Frame, receive } from '@godwit/core';
import {
  FaultyDevice,
  type MemoryLink,
  type MemoryLinkOptions,
  memoryLink,
  ToyVm,
  VirtualClock,
} from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { BLOCKS, filledVm, PAGE, start, switchAfter, type Toy } from './toy-migration.js';

/** A device that says how long its load takes. */
const telling = (ms: number | undefined) =>
  Object.assign(new FaultyDevice('uart'), ms === undefined ? {} : { expectedLoadMs: () => ms });

/** A migration whose first destination dies, far away, when `dies` says so of a frame, or with `kill`; another one is near. */
function restarted(
  dies: (frame: Frame, source: ToyVm) => boolean,
  policy: ConvergencePolicy = switchAfter(3),
  nearLink: MemoryLinkOptions = {},
) {
  const clock = new VirtualClock();
  const source = filledVm();
  source.devices = [telling(undefined)];
  let there: MemoryLink;
  const kill = () => {
    there = near;
    far.cut();
  };
  const far: MemoryLink = memoryLink({
    clock,
    latencyMs: 100,
    fromSource: (frame, payload) => {
      if (there === near || !dies(frame, source)) return { frame, payload };
      kill();
      return undefined;
    },
  });
  const near = memoryLink({ clock, latencyMs: 1, ...nearLink });
  there = far;
  const destination = new ToyVm(BLOCKS, { running: false, devices: [telling(undefined)] });
  const toy: Toy = start({
    ...{ clock, source, destination, listener: near.listener },
    connector: { connect: (request, signal) => there.connector.connect(request, signal) },
    migrate: { policy, progressIntervalMs: 0, downtimeLimitMs: 5000 },
  });
  const prepare = () => new ToyVm(BLOCKS, { running: false, devices: [telling(100)] });
  receive(far.listener, { prepare, clock, reconnectTimeoutMs: 0 }).result.catch(() => {});
  return { toy, source, destination, kill };
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

  test('is sent zero pages again, which say nothing of the pages that the guest writes', async () => {
    const { toy, source } = restarted(
      (frame, { running }) => frame.type === 'roundEnd' && running && frame.round === 2,
      // The third round is the first one of the second destination.
      ({ outcome }) => (outcome.round < 3 ? undefined : { action: 'force', reason: 'it is time' }),
      {
        bytesPerSecond: 100_000,
        fromSource: (frame, payload) => {
          if (frame.type === 'roundEnd' && source.running) {
            for (let page = 0; page < 16; page++) source.write(0, page * PAGE, new Uint8Array(PAGE).fill(9));
          }
          return { frame, payload };
        },
      },
    );
    // Half of what is populated.
    const populated = source.memory.blocks[0]?.populated?.() ?? [];
    const pages = [...populated].flatMap(({ firstPage, pageCount }) =>
      Array.from({ length: pageCount }, (_, i) => firstPage + i),
    );
    for (const page of pages.slice(16)) source.write(0, page * PAGE, new Uint8Array(PAGE));
    const { code } = await toy.settled();
    expect(code).toBeUndefined();
    const records = toy.events.flatMap((event) => (event.type === 'round' ? [event.round] : []));
    const anew = records.findLast(({ phase }) => phase === 'pre-copy');
    expect(anew).toMatchObject({ pages: { raw: 16, zero: 16 }, newlyDirtyPages: 16 });
    // 16 pages of 4 KiB at 100 KB/s.
    expect(anew?.prediction.ramMs).toBeGreaterThan(600);
  });

  test('once a switchover was decided is owed no page that was found for the first one', async () => {
    let killed = false;
    const world = restarted(
      (frame, source) => {
        if (frame.type !== 'roundEnd' || frame.round !== 2 || killed) return false;
        source.write(0, 5 * PAGE, Uint8Array.of(1));
        source.discard(0, { firstPage: 5, pageCount: 1 });
        return false;
      },
      ({ outcome }) => {
        if (outcome.round < 2) return undefined;
        if (!killed) world.kill();
        killed = true;
        return { action: 'switchover', reason: 'it is time' };
      },
    );
    const { code } = await world.toy.settled();
    expect(code).toBeUndefined();
    expect(starts(world.toy)).toEqual([
      [1, 32],
      [2, 0],
      [3, 1],
      [4, 32],
      [5, 0],
    ]);
    expect(world.source.memory.firstDifference(world.destination.memory)).toBeUndefined();
  });

  test('in the middle of a stop-and-copy: what the first one has told of its devices is forgotten', async () => {
    const { toy, source, destination } = restarted((frame, { running }) => frame.type === 'roundEnd' && !running);
    source.onPause = () => source.deviceWrite(0, 3 * PAGE, Uint8Array.of(1));
    const { code } = await toy.settled();
    expect(code).toBeUndefined();
    expect(source.memory.firstDifference(destination.memory)).toBeUndefined();
    const loads = toy.events.flatMap((event) => (event.type === 'round' ? [event.round.prediction.loadMs] : []));
    expect(loads.map((ms) => ms >= 100)).toEqual([true, true, true, ...Array(loads.length - 3).fill(false)]);
  });
});

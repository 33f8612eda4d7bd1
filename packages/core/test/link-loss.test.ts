import { roundCap } from '@godwit/core';
import { FaultyDevice, FaultyTracker, type FrameTap, ToyVm } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { BLOCKS, expectMoved, filledVm, start, type Toy } from './toy-migration.js';

/** A lost link ends the migration once it has begun: nothing is made anew, nobody is asked. */
const OFF = { reconnectTimeoutMs: 0, settleTimeoutMs: 0 };

/**
 * Nobody but a person ends a destination that is ready, or that has never heard of a source: here, some time after the
 * migration.
 */
function cancelWhenLeftAlone(toy: Toy): void {
  const cancel = async () => {
    await toy.clock.sleep(5000);
    if (toy.incoming.ownership === 'ready' || toy.incoming.state === 'none') toy.incoming.cancel('the source is gone');
  };
  toy.migration.result.then(cancel, cancel);
}

/** A complete small migration, with several rounds, a device and verification, cut when the Nth frame is on its way. */
function cutAt(
  n: number,
  direction: 'fromSource' | 'fromDestination',
  delivered: boolean,
  pageChannels: number,
): Toy & { readonly frames: () => number; readonly prepared: () => boolean } {
  const source = filledVm();
  const tracker = new FaultyTracker(source.software, source.memory, {});
  source.trackers = [tracker];
  source.devices = [new FaultyDevice('uart', Uint8Array.of(1, 2, 3))];
  const destination = new ToyVm(BLOCKS, { running: false, devices: [new FaultyDevice('uart')] });
  let frames = 0;
  let prepared = false;
  const toy: Toy = start({
    source,
    destination,
    prepare: (vm) => {
      prepared = true;
      return vm;
    },
    migrate: { verify: true, pageChannels, policy: roundCap(2, 'switchover'), ...OFF },
    receive: { reconnectTimeoutMs: 0, settleTimeoutMs: 0 },
    link: {
      [direction]: ((frame, payload) => {
        if (++frames === n) {
          toy.link.cut({ delivered });
          return undefined;
        }
        return { frame, payload };
      }) satisfies FrameTap,
    },
  });
  cancelWhenLeftAlone(toy);
  return Object.assign(toy, { frames: () => frames, prepared: () => prepared });
}

describe.each([0, 2])('the link dies at any frame, with %i page channels', (pageChannels) => {
  describe.each(['fromSource', 'fromDestination'] as const)('%s', (direction) => {
    test.each([true, false])(
      'what was on its way arrives: %s',
      async (delivered) => {
        const whole = cutAt(0, direction, delivered, pageChannels);
        expectMoved(whole, await whole.settled());
        const total = whole.frames();
        expect(total).toBeGreaterThan(direction === 'fromSource' ? 12 : 6);
        let unknown = 0;
        for (let n = 1; n <= total; n++) {
          const toy = cutAt(n, direction, delivered, pageChannels);
          const ends = await toy.settled();
          const { source, destination, link, migration } = toy;
          const running = [source.running, destination.running];
          const at = `cut at frame ${n} of ${total}`;
          expect({ at, both: source.running && destination.running }).toEqual({ at, both: false });
          expect(link.openStreams).toBe(0);
          const tracker = source.trackers[0] as FaultyTracker;
          expect(tracker.stops).toBe(tracker.starts);
          if (n === 1 && direction === 'fromSource') {
            // The hello: nothing has begun, and the first connection is tried again.
            expectMoved(toy, ends);
          } else if (n === 1) {
            // The welcome: the destination that has said it does not wait for anybody to come back.
            expect([ends.code, ends.receivedCode, ...running]).toEqual([
              ...['GODWIT_UNKNOWN_MIGRATION', 'GODWIT_LINK_LOST'],
              ...[true, false],
            ]);
          } else if (ends.code === 'GODWIT_OWNERSHIP_UNKNOWN') {
            unknown++;
            expect({ at, source: source.running, resumes: source.resumes }).toEqual({ at, source: false, resumes: 0 });
            expect(migration.state).toBe('failed');
            expect(destination.running).toBe(ends.received.status === 'fulfilled');
          } else if (ends.code === undefined) {
            // `released` was the frame: the guest has moved, and the destination only never hears that the source knows.
            expect({ at, running, ownership: toy.incoming.ownership }).toEqual({
              at,
              running: [false, true],
              ownership: 'untold',
            });
          } else {
            expect({ at, code: ends.code, running }).toEqual({ at, code: 'GODWIT_LINK_LOST', running: [true, false] });
            expect(['GODWIT_LINK_LOST', 'GODWIT_CANCELLED']).toContain(ends.receivedCode);
          }
          expect({ at, abandoned: destination.abandoned !== undefined }).toEqual({
            at,
            abandoned: toy.prepared() && !destination.running,
          });
        }
        // Only when `go` or `running` was the frame: elsewhere the outcome is known.
        expect(unknown).toBe(1);
      },
      30_000,
    );
  });
});

describe('go, and the end of everything at the same moment: one side owns the guest, and knows it', () => {
  /** Lets `steps` turns of the microtask queue pass. */
  const after = async (steps: number, act: () => void) => {
    for (let i = 0; i < steps; i++) await Promise.resolve();
    act();
  };

  test.each(['cancel the incoming migration', 'cut the link', 'cut the link, delivering'] as const)(
    '%s',
    async (what) => {
      const outcomes = new Set<string>();
      for (let steps = 0; steps < 80; steps++) {
        let refused: boolean | undefined;
        const toy: Toy = start({
          migrate: OFF,
          link: {
            fromSource: (frame, payload) => {
              if (frame.type === 'go') {
                void after(steps, () => {
                  if (what === 'cancel the incoming migration') refused = toy.incoming.cancel();
                  else toy.link.cut({ delivered: what !== 'cut the link' });
                });
              }
              return { frame, payload };
            },
          },
        });
        cancelWhenLeftAlone(toy);
        const ends = await toy.settled();
        const at = `after ${steps} steps`;
        expect({ at, source: toy.source.running, resumes: toy.source.resumes }).toEqual({
          at,
          source: false,
          resumes: 0,
        });
        expect({ at, destination: toy.destination.running }).toEqual({
          at,
          destination: ends.received.status === 'fulfilled',
        });
        expect({ at, abandoned: toy.destination.abandoned !== undefined }).toEqual({
          at,
          abandoned: !toy.destination.running,
        });
        if (refused) expect({ at, destination: toy.destination.running }).toEqual({ at, destination: false });
        if (ends.code !== undefined) expect(ends.code).toBe('GODWIT_OWNERSHIP_UNKNOWN');
        else expect(toy.destination.running).toBe(true);
        outcomes.add(`${ends.code} ${toy.destination.running}`);
      }
      expect(outcomes).toContain('GODWIT_OWNERSHIP_UNKNOWN false');
      expect(outcomes).toContain('undefined true');
    },
    30_000,
  );
});

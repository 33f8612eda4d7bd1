import { type PagesFrame, roundCap } from '@godwit/core';
import {
  FaultyDevice,
  FaultyTracker,
  type FrameTap,
  ManualTracker,
  ToyVm,
  type TrackerFaults,
} from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { BLOCKS, expectStayed, filledVm, PAGE, start, type Toy, type ToyOptions } from './toy-migration.js';

/**
 * Each of these breaks the engine at a seam in one of the ways in which pages are lost. With `verify` the migration must
 * fail and the guest stay; without it nobody else notices, and the comparison from outside shows that the fault was real.
 */
interface Breakage {
  readonly name: string;
  readonly options: () => ToyOptions;
  /** How it fails with `verify`. */
  readonly code: 'GODWIT_VERIFY_FAILED' | 'GODWIT_PROTOCOL';
  /** A fault that the engine notices without comparing RAM. */
  readonly noticedAnyway?: boolean;
}

const ROUNDS = roundCap(3, 'switchover');

/** A guest that writes its own page 9 once the source has sent `written` page frames, and page 11 in `pause`. */
function writer(tracker: (vm: ToyVm) => void): { readonly source: ToyVm; readonly tap: FrameTap } {
  const source = filledVm();
  tracker(source);
  let frames = 0;
  source.onPause = () => source.deviceWrite(0, 11 * PAGE, Uint8Array.of(11, 11));
  return {
    source,
    tap: (frame, payload) => {
      if (frame.type === 'pages' && source.running) source.write(0, 9 * PAGE + frames, Uint8Array.of(++frames));
      return { frame, payload };
    },
  };
}

function faulty(faults: TrackerFaults): () => ToyOptions {
  return () => {
    const { source, tap } = writer((vm) => {
      vm.trackers = [new FaultyTracker(vm.software, vm.memory, faults)];
    });
    return { source, link: { fromSource: tap }, migrate: { policy: ROUNDS } };
  };
}

/** Changes the first frame of pages that `change` wants to change. */
function tapped(change: (frame: PagesFrame, payload: Uint8Array) => ReturnType<FrameTap>): () => ToyOptions {
  return () => {
    let done = false;
    const { source, tap } = writer(() => {});
    return {
      source,
      migrate: { policy: ROUNDS },
      link: {
        fromSource: (frame, payload, channel) => {
          const passed = tap(frame, payload, channel);
          if (done || frame.type !== 'pages' || payload === undefined) return passed;
          done = true;
          return change(frame, payload);
        },
      },
    };
  };
}

const BREAKAGES: readonly Breakage[] = [
  {
    name: 'a dirty bit that is never set',
    code: 'GODWIT_VERIFY_FAILED',
    options: faulty({ blindTo: { blockIndex: 0, page: 9 } }),
  },
  { name: 'a harvest that is lost', code: 'GODWIT_VERIFY_FAILED', options: faulty({ loseHarvest: 1 }) },
  { name: 'the last harvests forgotten', code: 'GODWIT_VERIFY_FAILED', options: faulty({ nothingFrom: 4 }) },
  {
    name: 'writes of a device that is being saved',
    code: 'GODWIT_VERIFY_FAILED',
    options: () => {
      const { source, tap } = writer((vm) => {
        vm.trackers = [new FaultyTracker(vm.software, vm.memory, { nothingFrom: 5 })];
      });
      source.devices = [
        new FaultyDevice('nic', Uint8Array.of(1), { onSave: () => source.deviceWrite(0, 3 * PAGE, Uint8Array.of(3)) }),
      ];
      const destination = new ToyVm(BLOCKS, { running: false, devices: [new FaultyDevice('nic')] });
      return { source, destination, link: { fromSource: tap }, migrate: { policy: ROUNDS } };
    },
  },
  {
    name: 'pages re-armed after they were read',
    code: 'GODWIT_VERIFY_FAILED',
    options: () => {
      // The last write to page 9 comes after round 2 has read it, and before its late re-arm.
      const source = filledVm();
      const manual = source.track(new ManualTracker(source.memory));
      source.trackers = [new FaultyTracker(manual, source.memory, { rearmLate: true })];
      const writes = [1, 2];
      return {
        source,
        migrate: { policy: ROUNDS },
        link: {
          fromSource: (frame, payload) => {
            const value = frame.type === 'pages' ? writes.shift() : undefined;
            if (value !== undefined) source.write(0, 9 * PAGE, Uint8Array.of(value));
            return { frame, payload };
          },
        },
      };
    },
  },
  {
    name: 'a run dropped from a frame',
    code: 'GODWIT_PROTOCOL',
    noticedAnyway: true,
    options: tapped((frame, payload) => ({
      frame: { ...frame, runs: frame.runs.slice(2) },
      payload: payload.subarray((frame.runs[1] as number) * PAGE),
    })),
  },
  {
    name: 'a run dropped from a frame, and from the counts',
    code: 'GODWIT_VERIFY_FAILED',
    options: () => {
      const { source, tap } = writer(() => {});
      return {
        source,
        migrate: { policy: ROUNDS },
        link: {
          fromSource: (frame, payload, channel) => {
            const passed = tap(frame, payload, channel);
            if (frame.type === 'pages' && frame.round === 1 && payload !== undefined) {
              return { frame: { ...frame, runs: frame.runs.slice(2) }, payload: payload.subarray(PAGE) };
            }
            return frame.type === 'roundEnd' && frame.round === 1
              ? { frame: { ...frame, pages: frame.pages - 1 }, payload }
              : passed;
          },
          fromDestination: (frame, payload) =>
            frame.type === 'roundAck' && frame.round === 1
              ? { frame: { ...frame, pages: frame.pages + 1 }, payload }
              : { frame, payload },
        },
      };
    },
  },
  {
    name: 'two pages swapped in a payload',
    code: 'GODWIT_VERIFY_FAILED',
    options: tapped((frame, payload) => {
      const first = payload.slice(0, PAGE);
      payload.copyWithin(0, PAGE, 2 * PAGE);
      payload.set(first, PAGE);
      return { frame, payload };
    }),
  },
  {
    name: 'a page put in the place of another',
    code: 'GODWIT_VERIFY_FAILED',
    options: tapped((frame, payload) => ({
      frame: { ...frame, runs: [(frame.runs[0] as number) + 1, ...frame.runs.slice(1)] },
      payload,
    })),
  },
  {
    name: 'one bit flipped',
    code: 'GODWIT_VERIFY_FAILED',
    options: tapped((frame, payload) => {
      payload[PAGE - 1] = (payload[PAGE - 1] as number) ^ 0x80;
      return { frame, payload };
    }),
  },
  {
    name: 'a page torn: its second half is older',
    code: 'GODWIT_VERIFY_FAILED',
    options: tapped((frame, payload) => {
      payload.fill(0, PAGE / 2, PAGE);
      return { frame, payload };
    }),
  },
  {
    name: 'a stale page: what was sent earlier arrives again',
    code: 'GODWIT_VERIFY_FAILED',
    options: () => {
      const { source, tap } = writer(() => {});
      const seen: Uint8Array[] = [];
      return {
        source,
        migrate: { policy: ROUNDS },
        link: {
          fromSource: (frame, payload, channel) => {
            const passed = tap(frame, payload, channel);
            if (frame.type !== 'pages' || payload === undefined || frame.round === 1) return passed;
            seen.push(payload.slice(0, PAGE));
            payload.set(seen[0] as Uint8Array);
            return { frame, payload };
          },
        },
      };
    },
  },
  { name: 'a frame lost', code: 'GODWIT_PROTOCOL', noticedAnyway: true, options: tapped(() => undefined) },
  {
    name: 'a frame of zero pages lost',
    code: 'GODWIT_PROTOCOL',
    noticedAnyway: true,
    options: () => {
      const source = filledVm();
      source.write(0, 5 * PAGE, new Uint8Array(PAGE));
      return {
        source,
        link: { fromSource: (frame, payload) => (frame.type === 'zeroPages' ? undefined : { frame, payload }) },
      };
    },
  },
];

describe.each(BREAKAGES)('$name', ({ options, code, noticedAnyway }) => {
  const run = async (verify: boolean) => {
    const given = options();
    const toy: Toy = start({ ...given, migrate: { ...given.migrate, verify } });
    return { toy, ends: await toy.settled() };
  };

  test('is noticed with verify, and the guest stays', async () => {
    const { toy, ends } = await run(true);
    expectStayed(toy, ends, code);
    expect(toy.destination.abandoned).toMatchObject({ code });
  });

  if (noticedAnyway) {
    test('is noticed without verify', async () => {
      const { toy, ends } = await run(false);
      expectStayed(toy, ends, code);
    });
  } else {
    test('is a real fault: without verify, memory differs', async () => {
      const { toy, ends } = await run(false);
      expect(ends.code).toBeUndefined();
      expect(toy.source.memory.firstDifference(toy.destination.memory)).toBeDefined();
    });
  }
});

test('a tracker that is never re-armed reports too much: nothing is lost, and the hand-over is refused', async () => {
  const source = filledVm();
  const manual = source.track(new ManualTracker(source.memory));
  manual.rearm = () => {};
  source.write(0, 0, Uint8Array.of(1));
  const toy = start({
    source,
    migrate: { policy: ROUNDS, verify: true },
    link: {
      fromSource: (frame, payload) => {
        if (frame.type === 'pages' && source.running) source.write(0, PAGE, Uint8Array.of(1));
        return { frame, payload };
      },
    },
  });
  const ends = await toy.settled();
  expectStayed(toy, ends, 'GODWIT_VM_FAILED');
  expect(ends.sent).toMatchObject({
    reason: { message: expect.stringContaining('written after the guest was paused') },
  });
});

test('a guest that writes although it is paused is not handed over', async () => {
  const source = filledVm();
  const toy = start({
    source,
    link: {
      fromSource: (frame, payload) => {
        if (frame.type === 'switchover') source.deviceWrite(0, 7 * PAGE, Uint8Array.of(1));
        return { frame, payload };
      },
    },
  });
  expectStayed(toy, await toy.settled(), 'GODWIT_VM_FAILED');
});

test('a comparison that compared nothing does not count', async () => {
  const toy = start({
    migrate: { verify: true },
    link: {
      fromDestination: (frame, payload) => ({
        frame: frame.type === 'verified' ? { ...frame, pagesCompared: 0 } : frame,
        payload,
      }),
    },
  });
  expectStayed(toy, await toy.settled(), 'GODWIT_PROTOCOL');
});

test('the failed comparison names the pages', async () => {
  const toy = start({
    migrate: { verify: true },
    link: {
      fromSource: (frame, payload) => {
        if (frame.type === 'pages') payload?.fill(0x55, PAGE, PAGE + 1);
        return { frame, payload };
      },
    },
  });
  const ends = await toy.settled();
  expectStayed(toy, ends, 'GODWIT_VERIFY_FAILED');
  expect(ends.sent).toMatchObject({
    reason: { message: expect.stringMatching(/^1 of 32 pages differ at the destination \(ram:2\)/) },
  });
});

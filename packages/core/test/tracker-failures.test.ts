import { type ConvergencePolicy, type DirtyBitmaps, type DirtyTracker, roundCap } from '@godwit/core';
import { FaultyDevice, FaultyTracker, ManualTracker, ToyVm, type TrackerFaults } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { BLOCKS, expectMoved, expectStayed, filledVm, PAGE, start, type ToyOptions } from './toy-migration.js';

function tracked(faults: TrackerFaults, manual = false) {
  const source = filledVm();
  const inner = manual ? source.track(new ManualTracker(source.memory)) : source.software;
  source.trackers = [new FaultyTracker(inner, source.memory, faults)];
  return { source };
}

describe('a tracker that fails', () => {
  const writing = (source: ToyVm): ToyOptions => ({
    source,
    link: {
      fromSource: (frame, payload) => {
        if (source.running) source.write(0, (frame.type.length % 60) * PAGE + 8, Uint8Array.of(frame.type.length));
        return { frame, payload };
      },
    },
    migrate: { verify: true, policy: roundCap(3, 'switchover') },
  });

  test.each([1, 2, 3, 4, 5])('harvest %i: everything counts as dirty, and everything arrives', async (failHarvest) => {
    const { source } = tracked({ failHarvest });
    const toy = start(writing(source));
    const ends = await toy.settled();
    expectMoved(toy, ends);
    const warnings = toy.events.filter((event) => event.type === 'warning');
    expect(warnings).toEqual([
      {
        type: 'warning',
        code: 'GODWIT_TRACKER_FAILED',
        message: expect.stringContaining('every page counts as dirty'),
      },
    ]);
    const rounds = ends.sent.status === 'fulfilled' ? ends.sent.value.rounds : [];
    expect(rounds.filter(({ dirtyPages }) => dirtyPages === 64)).toHaveLength(1);
  });

  test('the last harvest, which proves that memory stood still: the guest is not handed over on a guess', async () => {
    const { source } = tracked({ failHarvest: 6 });
    const toy = start(writing(source));
    expectStayed(toy, await toy.settled(), 'GODWIT_TRACKER_FAILED');
  });

  test.each([1, 2, 3])('re-arm %i: what it may have lost is sent again', async (failRearm) => {
    const { source } = tracked({ failRearm }, true);
    const options = writing(source);
    // Between a harvest and the re-arming of the next round: reported by neither.
    const policy: ConvergencePolicy = (input) => {
      source.write(0, (40 + input.outcome.round) * PAGE, Uint8Array.of(5));
      return roundCap(3, 'switchover')(input);
    };
    const toy = start({ ...options, migrate: { ...options.migrate, policy } });
    const ends = await toy.settled();
    expectMoved(toy, ends);
    expect(toy.events.filter((event) => event.type === 'warning')).toHaveLength(1);
  });

  test('one that sets bits past the last page', async () => {
    const pages = 65;
    const blocks = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: pages * PAGE }];
    const source = filledVm(blocks);
    const careless: DirtyTracker = {
      name: 'careless',
      start: () => source.software.start(),
      stop: () => source.software.stop(),
      harvest: async (into) => {
        await source.software.harvest(into);
        into.at(0).bytes.fill(0xff, 8);
      },
    };
    source.trackers = [Object.assign(careless, { exact: false })];
    const toy = start({ source, destination: new ToyVm(blocks, { running: false }), migrate: { verify: true } });
    const ends = await toy.settled();
    expectMoved(toy, ends);
    expect(ends.sent).toMatchObject({
      value: { rounds: [{ dirtyPages: 32 }, { dirtyPages: 1, rawBytes: PAGE }, { dirtyPages: 1 }] },
    });
  });

  test('one that keeps bitmaps and goes on writing them: they are not those of the round', async () => {
    const source = filledVm();
    let kept: DirtyBitmaps | undefined;
    const careless: DirtyTracker = {
      name: 'careless',
      exact: false,
      start: async () => {},
      stop: async () => {},
      harvest: async (into) => {
        into.at(0).set(1);
        kept = into;
      },
    };
    source.trackers = [careless];
    const toy = start({
      source,
      migrate: {
        policy: (input) => {
          kept?.at(0).set(2);
          return roundCap(2, 'switchover')(input);
        },
      },
    });
    const ends = await toy.settled();
    expectMoved(toy, ends);
    expect(ends.sent).toMatchObject({
      value: { rounds: [{ dirtyPages: 32 }, { dirtyPages: 1 }, { dirtyPages: 1 }, {}] },
    });
  });

  test('stop: a warning, the guest has moved', async () => {
    const { source } = tracked({ failStop: true });
    const toy = start({ source });
    expectMoved(toy, await toy.settled());
    expect(toy.events.filter((event) => event.type === 'warning')).toHaveLength(1);
  });

  test('one of two: the other is stopped too', async () => {
    const source = filledVm();
    const first = new FaultyTracker(source.software, source.memory, {});
    source.trackers = [first, new FaultyTracker(source.software, source.memory, { failStart: true })];
    const toy = start({ source });
    expectStayed(toy, await toy.settled(), 'GODWIT_TRACKER_FAILED');
    expect(first.stops).toBe(1);
  });
});

describe('a tracker that reports every page each time, beside an exact one', () => {
  const all = (): DirtyTracker => ({
    name: 'vfio-type1',
    exact: false,
    start: async () => {},
    stop: async () => {},
    harvest: async (into) => into.setAll(),
  });

  test('cannot prove that memory stood still, and is not asked to', async () => {
    const source = filledVm();
    source.trackers = [source.software, all()];
    const toy = start({ source, migrate: { verify: true, policy: roundCap(2, 'switchover') } });
    expectMoved(toy, await toy.settled());
  });

  test('the exact one still proves that memory did not', async () => {
    const source = filledVm();
    source.trackers = [all(), source.software];
    const late = new FaultyDevice('late', new Uint8Array(1));
    source.devices = [late];
    const destination = new ToyVm(BLOCKS, { running: false });
    // Loading begins when all memory is sent: what is written now would be lost.
    destination.devices = [
      Object.assign(new FaultyDevice('late'), {
        load: async (state: AsyncIterable<Uint8Array>) => {
          for await (const _ of state) source.deviceWrite(0, 3 * PAGE, new Uint8Array([1]));
        },
      }),
    ];
    const toy = start({ source, destination, migrate: { policy: roundCap(1, 'switchover') } });
    expectStayed(toy, await toy.settled(), 'GODWIT_VM_FAILED');
  });

  test('the record of a round says who reported how much, and the failure says who keeps it from converging', async () => {
    const source = filledVm();
    source.trackers = [source.software, all()];
    const toy = start({ source, migrate: { policy: roundCap(2, 'abort') } });
    const ends = await toy.settled();
    expectStayed(toy, ends, 'GODWIT_NOT_CONVERGING');
    const rounds = toy.events.flatMap((event) => (event.type === 'round' ? [event.round] : []));
    expect(rounds).toHaveLength(2);
    expect(rounds[1]?.trackers).toEqual([
      { name: 'software', dirtyPages: 0, exact: true, failed: false, blindSpots: 'every write that is not marked' },
      { name: 'vfio-type1', dirtyPages: 64, exact: false, failed: false },
    ]);
    expect(String((ends.sent as PromiseRejectedResult).reason)).toMatch(
      /of 64 dirty pages the tracker "vfio-type1" reported 64/,
    );
  });
});

test('what each vCPU has dirtied is in the records of the rounds, unless the harvest failed', async () => {
  const source = filledVm();
  let harvests = 0;
  const perVcpu: DirtyTracker = {
    name: 'per vCPU',
    start: () => source.software.start(),
    stop: () => source.software.stop(),
    harvest: async (into) => {
      harvests++;
      if (harvests === 2) throw new Error('lost');
      await source.software.harvest(into);
    },
    vcpus: () => [{ dirtyPagesPerSecond: harvests, ringFull: 0 }],
  };
  source.trackers = [perVcpu];
  const toy = start({ source, migrate: { policy: roundCap(4, 'switchover') } });
  const ends = await toy.settled();
  expectMoved(toy, ends);
  const rounds = ends.sent.status === 'fulfilled' ? ends.sent.value.rounds : [];
  const reports = rounds.flatMap(({ trackers }) => trackers);
  expect(reports.length).toBeGreaterThan(2);
  for (const { failed, vcpus } of reports) expect(vcpus === undefined).toBe(failed);
  expect(reports.map(({ vcpus }) => vcpus?.[0]?.dirtyPagesPerSecond)).toContain(1);
});

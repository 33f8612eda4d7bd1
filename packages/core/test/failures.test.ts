import { getEventListeners } from 'node:events';
import {
  type ConvergencePolicy,
  claimOf,
  type DirtyBitmaps,
  type DirtyTracker,
  GodwitError,
  type MigratableDevice,
  type MigratableVm,
  roundCap,
} from '@godwit/core';
import {
  BufferMemory,
  FaultyDevice,
  FaultyTracker,
  ManualTracker,
  memoryLink,
  ToyVm,
  type TrackerFaults,
  VirtualClock,
} from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import {
  BLOCKS,
  expectMoved,
  expectStayed,
  filledVm,
  PAGE,
  start,
  states,
  type Toy,
  type ToyOptions,
} from './toy-migration.js';

const boom = () => {
  throw new Error('on purpose');
};

describe('whatever fails before go, the guest runs at the source and both sides say why', () => {
  test.each<readonly [string, () => ToyOptions, string, string]>([
    ['connect', () => ({ connector: { connect: async () => boom() } }), 'GODWIT_CONNECT_FAILED', 'GODWIT_CANCELLED'],
    [
      'connect, before it has a promise',
      () => ({ connector: { connect: boom } }),
      'GODWIT_CONNECT_FAILED',
      'GODWIT_CANCELLED',
    ],
    ['prepare', () => ({ prepare: boom }), 'GODWIT_PREPARE_FAILED', 'GODWIT_PREPARE_FAILED'],
    [
      'prepare, with a code of its own',
      () => ({
        prepare: () => {
          throw new GodwitError('GODWIT_OUT_OF_MEMORY', 'it does not fit');
        },
      }),
      'GODWIT_OUT_OF_MEMORY',
      'GODWIT_OUT_OF_MEMORY',
    ],
    ['a device that does not save', () => devices({ failSave: 1 }, {}), 'GODWIT_DEVICE_FAILED', 'GODWIT_DEVICE_FAILED'],
    ['a device that does not load', () => devices({}, { failLoad: 1 }), 'GODWIT_DEVICE_FAILED', 'GODWIT_DEVICE_FAILED'],
    [
      'a device that does not know its size',
      () => {
        const options = devices({}, {});
        options.source.devices = [Object.assign(options.source.devices[0] as FaultyDevice, { stateBytes: boom })];
        return options;
      },
      'GODWIT_DEVICE_FAILED',
      // Sizes go with the hello.
      'GODWIT_CANCELLED',
    ],
    [
      'a device that fails while the guest runs',
      () => {
        const options = devices({}, {});
        options.source.devices = [Object.assign(options.source.devices[0] as FaultyDevice, { precopy: boom })];
        return options;
      },
      'GODWIT_DEVICE_FAILED',
      'GODWIT_DEVICE_FAILED',
    ],
    [
      'a device that fails before it saves',
      () => {
        const options = devices({}, {});
        options.source.devices = [Object.assign(options.source.devices[0] as FaultyDevice, { save: boom })];
        return options;
      },
      'GODWIT_DEVICE_FAILED',
      'GODWIT_DEVICE_FAILED',
    ],
    [
      'no dirty tracker',
      () => {
        const source = filledVm();
        source.trackers = [];
        return { source };
      },
      'GODWIT_INVALID_ARGUMENT',
      'GODWIT_CANCELLED',
    ],
    [
      'a tracker that does not start',
      () => tracked({ failStart: true }),
      'GODWIT_TRACKER_FAILED',
      'GODWIT_TRACKER_FAILED',
    ],
    [
      'pause',
      () => {
        const source = filledVm();
        source.onPause = boom;
        return { source };
      },
      'GODWIT_VM_FAILED',
      'GODWIT_VM_FAILED',
    ],
    ['a policy', () => ({ migrate: { policy: boom } }), 'GODWIT_INTERNAL', 'GODWIT_INTERNAL'],
    [
      'a policy that gives up',
      () => ({ migrate: { policy: roundCap(1, 'abort') } }),
      'GODWIT_NOT_CONVERGING',
      'GODWIT_NOT_CONVERGING',
    ],
    [
      'memory that cannot be viewed',
      () => ({ source: withView(filledVm(), boom) }),
      'GODWIT_INTERNAL',
      // Its memory cannot be claimed.
      'GODWIT_CANCELLED',
    ],
    [
      'a view that is too short',
      () => ({ source: withView(filledVm(), () => new Uint8Array(PAGE)) }),
      'GODWIT_INVALID_ARGUMENT',
      'GODWIT_INVALID_ARGUMENT',
    ],
    [
      'memory that cannot be viewed at the destination',
      () => ({ destination: withView(new ToyVm(BLOCKS, { running: false }), boom) }),
      'GODWIT_INTERNAL',
      'GODWIT_INTERNAL',
    ],
  ])('%s', async (_, options, code, receivedCode) => {
    const toy = start(options());
    // Where the destination never hears of the source, it is told to stop waiting.
    toy.migration.result.catch(() => toy.incoming.cancel());
    const ends = await toy.settled();
    expectStayed(toy, ends, code);
    expect(ends.receivedCode).toBe(receivedCode);
    expect(toy.migration.state).toBe('failed');
    expect(toy.source.pauses === 0 || toy.source.resumes > 0).toBe(true);
    const error = ends.sent.status === 'rejected' ? ends.sent.reason : undefined;
    expect(GodwitError.is(error)).toBe(true);
  });
});

function devices(
  source: ConstructorParameters<typeof FaultyDevice>[2],
  destination: ConstructorParameters<typeof FaultyDevice>[2],
) {
  const from = filledVm();
  from.devices = [new FaultyDevice('uart', Uint8Array.of(1, 2, 3), source)];
  return {
    source: from,
    destination: new ToyVm(BLOCKS, { running: false, devices: [new FaultyDevice('uart', undefined, destination)] }),
  };
}

function tracked(faults: TrackerFaults, manual = false) {
  const source = filledVm();
  const inner = manual ? source.track(new ManualTracker(source.memory)) : source.software;
  source.trackers = [new FaultyTracker(inner, source.memory, faults)];
  return { source };
}

function withView(vm: ToyVm, view: (offset: number, length: number) => Uint8Array): ToyVm {
  const blocks = vm.memory.blocks.map((block) => ({ ...block, view }));
  return Object.assign(vm, { memory: Object.assign(Object.create(vm.memory), { blocks }) });
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
      { name: 'software', dirtyPages: 0, exact: true, failed: false },
      { name: 'vfio-type1', dirtyPages: 64, exact: false, failed: false },
    ]);
    expect(String((ends.sent as PromiseRejectedResult).reason)).toMatch(
      /of 64 dirty pages the tracker "vfio-type1" reported 64/,
    );
  });
});

test('a guest that cannot be resumed after a failure: both errors are named', async () => {
  const { source, destination } = devices({}, { failLoad: 1 });
  source.onResume = boom;
  const toy = start({ source, destination });
  const ends = await toy.settled();
  expect(ends.sent).toMatchObject({
    reason: {
      code: 'GODWIT_VM_FAILED',
      message: expect.stringMatching(/could not be resumed at the source.*on purpose/),
      cause: { code: 'GODWIT_DEVICE_FAILED' },
    },
  });
  expect(toy.destination.running).toBe(false);
});

test('a guest that cannot be started at the destination: the source stays paused, nothing is abandoned', async () => {
  const destination = new ToyVm(BLOCKS, { running: false });
  destination.onResume = boom;
  const toy = start({ destination });
  const ends = await toy.settled();
  expect([ends.code, ends.receivedCode]).toEqual(['GODWIT_OWNERSHIP_UNKNOWN', 'GODWIT_VM_FAILED']);
  expect([toy.source.running, toy.source.resumes]).toEqual([false, 0]);
  expect(destination.abandoned).toBeUndefined();
  expect(toy.link.openStreams).toBe(0);
});

test('a VM that cannot be abandoned is a warning', async () => {
  const { source, destination } = devices({}, { failLoad: 1 });
  const vm: MigratableVm = Object.assign(destination, { abandon: boom });
  const toy = start({ source, prepare: () => vm });
  const ends = await toy.settled();
  expect(ends.receivedCode).toBe('GODWIT_DEVICE_FAILED');
  expect(toy.incomingEvents.filter((event) => event.type === 'warning')).toHaveLength(1);
});

describe('memory that the engine cannot move', () => {
  test.each<readonly [string, ConstructorParameters<typeof BufferMemory>]>([
    ['two blocks of one name', [[...BLOCKS, { id: 'ram', guestPhysicalAddress: 2 ** 32, byteLength: PAGE }]]],
    ['blocks that overlap', [[...BLOCKS, { id: 'b', guestPhysicalAddress: PAGE, byteLength: PAGE }]]],
    ['a page size that is no power of two', [[{ id: 'ram', guestPhysicalAddress: 0, byteLength: 3000 }], 3000]],
    ['an address below zero', [[{ id: 'ram', guestPhysicalAddress: -4096, byteLength: PAGE }]]],
  ])('%s', async (_, parameters) => {
    const source = Object.assign(filledVm(), { memory: new BufferMemory(...parameters) });
    const toy = start({ source });
    toy.migration.result.catch(() => toy.incoming.cancel());
    expectStayed(toy, await toy.settled(), 'GODWIT_INVALID_ARGUMENT');
  });

  test('at the destination: its VM is abandoned', async () => {
    const memory = new BufferMemory([...BLOCKS, { id: 'ram', guestPhysicalAddress: 2 ** 32, byteLength: PAGE }]);
    const destination = Object.assign(new ToyVm(BLOCKS, { running: false }), { memory });
    const toy = start({ destination });
    const ends = await toy.settled();
    expectStayed(toy, ends, 'GODWIT_INVALID_ARGUMENT');
    expect(ends.receivedCode).toBe('GODWIT_INVALID_ARGUMENT');
    expect(destination.abandoned).toMatchObject({ code: 'GODWIT_INVALID_ARGUMENT' });
    expect(claimOf(destination).state).toBe('idle');
  });

  test('populated runs that do not ascend: a page taken for a hole would be lost', async () => {
    const source = filledVm();
    const [block] = source.memory.blocks;
    const blocks = [
      {
        ...block,
        populated: () => [
          { firstPage: 32, pageCount: 32 },
          { firstPage: 0, pageCount: 32 },
        ],
      },
    ];
    Object.assign(source, { memory: Object.assign(Object.create(source.memory), { blocks }) });
    const toy = start({ source });
    expectStayed(toy, await toy.settled(), 'GODWIT_INVALID_ARGUMENT');
  });
});

test('nothing of a failed migration lasts: the next one over a new link goes through', async () => {
  const source = filledVm();
  for (let n = 2; n < 20; n += 3) {
    let frames = 0;
    const toy: Toy = start({
      source,
      link: {
        fromSource: (frame, payload) => {
          if (++frames === n) toy.link.cut();
          return { frame, payload };
        },
      },
    });
    await toy.settled();
    if (!source.running) return;
  }
  const toy = start({ source, migrate: { verify: true } });
  expectMoved(toy, await toy.settled());
});

test('a link with fewer page channels than asked for is a visible event', async () => {
  const clock = new VirtualClock();
  const link = memoryLink({ clock });
  const toy = start({
    listener: link.listener,
    connector: {
      connect: (request, signal) => link.connector.connect({ ...request, pageChannels: 0 }, signal),
    },
    migrate: { pageChannels: 4 },
  });
  const ends = await toy.settled();
  expect(ends.code).toBeUndefined();
  expect(toy.events).toContainEqual({
    type: 'warning',
    code: 'GODWIT_UNSUPPORTED',
    message: expect.stringContaining('4 page channels'),
  });
  expect(states(toy.events)).toEqual(['setup', 'active', 'device', 'completed']);
});

test('a device that is still saving has stopped before the guest runs again', async () => {
  const source = filledVm();
  let saving = false;
  const device = new FaultyDevice('disk');
  source.devices = [
    Object.assign(device, {
      async *save() {
        saving = true;
        try {
          for (;;) {
            await toy.clock.sleep(10);
            yield Uint8Array.of(1);
          }
        } finally {
          await toy.clock.sleep(20);
          saving = false;
        }
      },
    }),
  ];
  const whenResumed: boolean[] = [];
  source.onResume = () => void whenResumed.push(saving);
  const toy = start({
    source,
    destination: new ToyVm(BLOCKS, { running: false, devices: [new FaultyDevice('disk')] }),
  });
  void toy.clock.sleep(100).then(() => toy.migration.cancel());
  expectStayed(toy, await toy.settled(), 'GODWIT_CANCELLED');
  expect(whenResumed).toEqual([false]);
});

test('devices are loaded in the order of the destination, each with its own state and version', async () => {
  const order: string[] = [];
  const device = (id: string, version: number, minimumVersion = version) => {
    const made = new FaultyDevice(id, new TextEncoder().encode(id), {}, version);
    return Object.assign(made, {
      minimumVersion,
      load: async (state: AsyncIterable<Uint8Array>, stateVersion: number) => {
        let text = '';
        for await (const chunk of state) text += new TextDecoder().decode(chunk);
        order.push(`${id}: ${text} v${stateVersion}`);
      },
    });
  };
  const source = filledVm();
  source.devices = [device('a', 3), device('b', 2), device('c', 1)];
  const devices = [device('c', 1), device('a', 5, 3), device('b', 2)];
  const toy = start({ source, destination: new ToyVm(BLOCKS, { running: false, devices }) });
  expectMoved(toy, await toy.settled());
  expect(order).toEqual(['c: c v1', 'a: a v3', 'b: b v2']);
});

test('a device that moves while the guest runs: its pieces, then the rest, are one state, loaded as they come', async () => {
  const source = filledVm();
  let calls = 0;
  const iterative: MigratableDevice = {
    id: 'vfio',
    version: 1,
    async *precopy() {
      calls++;
      yield Uint8Array.of(calls, 0);
      yield new Uint8Array();
      yield Uint8Array.of(calls, 1);
    },
    async *save() {
      yield Uint8Array.of(99);
    },
    load: async () => {},
  };
  source.devices = [iterative];
  const loaded: number[] = [];
  let startedWhile: string | undefined;
  const destination = new ToyVm(BLOCKS, { running: false });
  destination.devices = [
    {
      ...iterative,
      async load(state) {
        startedWhile = toy.migration.state;
        for await (const chunk of state) loaded.push(...chunk);
      },
    },
  ];
  const toy = start({ source, destination, migrate: { policy: roundCap(3, 'switchover') } });
  expectMoved(toy, await toy.settled());
  expect(loaded).toEqual([1, 0, 1, 1, 2, 0, 2, 1, 3, 0, 3, 1, 99]);
  expect(startedWhile).toBe('active');
});

test('signals that are passed in are let go of', async () => {
  for (const fail of [false, true]) {
    const stop = new AbortController();
    const { source, destination } = devices(fail ? { failSave: 1 } : {}, {});
    const toy = start({ source, destination, migrate: { signal: stop.signal }, receive: { signal: stop.signal } });
    const ends = await toy.settled();
    expect(ends.code).toBe(fail ? 'GODWIT_DEVICE_FAILED' : undefined);
    expect(getEventListeners(stop.signal, 'abort')).toEqual([]);
  }
});

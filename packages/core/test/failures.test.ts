import { getEventListeners } from 'node:events';
import { GodwitError, type MigratableVm, roundCap } from '@godwit/core';
import { FaultyDevice, FaultyTracker, memoryLink, ToyVm, VirtualClock } from '@godwit/core/testing';
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
      () => {
        const source = filledVm();
        source.trackers = [new FaultyTracker(source.software, source.memory, { failStart: true })];
        return { source };
      },
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

function withView(vm: ToyVm, view: (offset: number, length: number) => Uint8Array): ToyVm {
  const blocks = vm.memory.blocks.map((block) => ({ ...block, view }));
  return Object.assign(vm, { memory: Object.assign(Object.create(vm.memory), { blocks }) });
}

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

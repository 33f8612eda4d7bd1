import type { LinkConnector, MigrationEvent, MigrationState } from '@godwit/core';
import { FaultyDevice, ToyVm } from '@godwit/core/testing';
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

const never = () => new Promise<never>(() => {});

/** A place in a migration: what makes it stay there, and how to know that it has come there. */
interface Place {
  readonly options: () => ToyOptions;
  /** Calls `arrived` when the migration is at the place. */
  readonly when: (toy: Toy, arrived: () => void) => void;
  readonly states: readonly MigrationState[];
  /** The destination never hears of the migration. */
  readonly alone?: boolean;
  /** How the destination ends when the source cancels, if it cannot be told. */
  readonly receivedCode?: string;
}

const atFrame = (type: string, direction: 'fromSource' | 'fromDestination', options: () => ToyOptions = () => ({})) => {
  let arrived: () => void = () => {};
  return {
    options: (): ToyOptions => {
      const given = options();
      return {
        ...given,
        link: {
          [direction]: (frame: { readonly type: string }, payload: Uint8Array | undefined) => {
            if (frame.type === type) arrived();
            return { frame, payload };
          },
        },
      };
    },
    when: (_: Toy, then: () => void) => {
      arrived = then;
    },
  };
};

const when = (matches: (event: MigrationEvent) => boolean) => (toy: Toy, arrived: () => void) => {
  const subscription = toy.migration.subscribe((event) => {
    if (!matches(event)) return;
    subscription.unsubscribe();
    arrived();
  });
};

const atState = (state: MigrationState) => when((event) => event.type === 'state' && event.state === state);

const atEvent = (type: MigrationEvent['type']) => when((event) => event.type === type);

const device =
  (faults: ConstructorParameters<typeof FaultyDevice>[2], load: ConstructorParameters<typeof FaultyDevice>[2] = {}) =>
  () => {
    const source = filledVm();
    source.devices = [new FaultyDevice('uart', Uint8Array.of(1), faults)];
    return {
      source,
      destination: new ToyVm(BLOCKS, { running: false, devices: [new FaultyDevice('uart', undefined, load)] }),
    };
  };

const hanging: LinkConnector = { connect: never };

const PLACES: Record<string, Place> = {
  'before it begins': {
    options: () => ({}),
    when: (_, arrived) => arrived(),
    states: ['cancelling', 'cancelled'],
    alone: true,
  },
  'when it hears of setup': {
    options: () => ({}),
    when: atState('setup'),
    states: ['setup', 'cancelling', 'cancelled'],
    alone: true,
  },
  'when it hears of setup, and nobody answers': {
    options: () => ({ connector: hanging }),
    when: atState('setup'),
    states: ['setup', 'cancelling', 'cancelled'],
    alone: true,
  },
  'while connecting': {
    options: () => ({ connector: hanging }),
    when: (toy, arrived) => void toy.clock.sleep(500).then(arrived),
    states: ['setup', 'cancelling', 'cancelled'],
    alone: true,
  },
  'while prepare hangs': {
    options: () => ({ prepare: never }),
    when: (toy, arrived) => void toy.clock.sleep(500).then(arrived),
    states: ['setup', 'cancelling', 'cancelled'],
  },
  'when it hears of active': {
    options: () => ({}),
    when: atState('active'),
    states: ['setup', 'active', 'cancelling', 'cancelled'],
  },
  'in the middle of a round': {
    ...atFrame('pages', 'fromSource'),
    states: ['setup', 'active', 'cancelling', 'cancelled'],
  },
  'when a round is acknowledged': {
    ...atFrame('roundAck', 'fromDestination'),
    states: ['setup', 'active', 'cancelling', 'cancelled'],
  },
  'while the bandwidth limit makes it wait': {
    options: () => ({
      source: full(),
      destination: new ToyVm(BIG, { running: false }),
      migrate: { bandwidthLimit: 1000 },
    }),
    when: (toy, arrived) => void toy.clock.sleep(5000).then(arrived),
    states: ['setup', 'active', 'cancelling', 'cancelled'],
  },
  'while the link hardly takes anything': {
    // A frame of this link arrives all at once, after minutes in which nothing comes.
    options: () => ({ link: { bytesPerSecond: 100 }, receive: { silenceTimeoutMs: 0 } }),
    when: (toy, arrived) => void toy.clock.sleep(60_000).then(arrived),
    // The reason is queued behind pages that never leave: another link carries it.
    states: ['setup', 'active', 'cancelling', 'cancelled'],
  },
  'when it hears of pre-switchover': {
    options: () => ({ migrate: { pauseBeforeSwitchover: true } }),
    when: atState('pre-switchover'),
    states: ['setup', 'active', 'pre-switchover', 'cancelling', 'cancelled'],
  },
  'in pre-switchover': {
    options: () => ({ migrate: { pauseBeforeSwitchover: true } }),
    when: (toy, arrived) => atState('pre-switchover')(toy, () => void toy.clock.sleep(10_000).then(arrived)),
    states: ['setup', 'active', 'pre-switchover', 'cancelling', 'cancelled'],
  },
  'when it hears of device': {
    options: () => ({}),
    when: atState('device'),
    states: ['setup', 'active', 'device', 'cancelling', 'cancelled'],
  },
  'while a device hangs in save': {
    options: device({ hangSave: true }),
    when: (toy, arrived) => atState('device')(toy, () => void toy.clock.sleep(300).then(arrived)),
    states: ['setup', 'active', 'device', 'cancelling', 'cancelled'],
  },
  'while a device hangs in load': {
    options: device({}, { hangLoad: true }),
    when: (toy, arrived) => atState('device')(toy, () => void toy.clock.sleep(300).then(arrived)),
    states: ['setup', 'active', 'device', 'cancelling', 'cancelled'],
  },
  'when it hears that it went back': {
    options: device({ hangSave: true }),
    when: atEvent('went-back'),
    states: ['setup', 'active', 'device', 'cancelling', 'cancelled'],
  },
  'long after it went back, while a save hangs': {
    options: device({ hangSave: true }),
    when: (toy, arrived) => atEvent('went-back')(toy, () => void toy.clock.sleep(20_000).then(arrived)),
    states: ['setup', 'active', 'device', 'active', 'cancelling', 'cancelled'],
  },
  'long after it went back, while a load hangs': {
    options: device({}, { hangLoad: true }),
    when: (toy, arrived) => atEvent('went-back')(toy, () => void toy.clock.sleep(20_000).then(arrived)),
    states: ['setup', 'active', 'device', 'active', 'cancelling', 'cancelled'],
  },
  'when "back" is on its way': {
    ...atFrame('back', 'fromSource', device({ hangSave: true })),
    states: ['setup', 'active', 'device', 'active', 'cancelling', 'cancelled'],
  },
  'when "backAck" is on its way': {
    ...atFrame('backAck', 'fromDestination', device({ hangSave: true })),
    states: ['setup', 'active', 'device', 'active', 'cancelling', 'cancelled'],
  },
  'when the destination is ready': {
    ...atFrame('ready', 'fromDestination'),
    states: ['setup', 'active', 'device', 'cancelling', 'cancelled'],
  },
  'in the middle of the comparison': {
    ...atFrame('digests', 'fromSource', () => ({ migrate: { verify: true } })),
    states: ['setup', 'active', 'device', 'cancelling', 'cancelled'],
  },
  'when the comparison is done': {
    ...atFrame('verified', 'fromDestination', () => ({ migrate: { verify: true } })),
    states: ['setup', 'active', 'device', 'cancelling', 'cancelled'],
  },
};

const BIG = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 2048 * PAGE }];

function full(): ToyVm {
  const vm = new ToyVm(BIG);
  vm.write(0, 0, new Uint8Array(2048 * PAGE).fill(1));
  return vm;
}

describe.each(Object.entries(PLACES))('cancelled %s', (_, place) => {
  const check = async (toy: Toy) => {
    if (place.alone) toy.migration.result.catch(() => toy.incoming.cancel());
    const ends = await toy.settled();
    expectStayed(toy, ends, 'GODWIT_CANCELLED');
    expect(ends.receivedCode).toBe(place.receivedCode ?? 'GODWIT_CANCELLED');
    expect(toy.migration.state).toBe('cancelled');
    expect(toy.destination.resumes).toBe(0);
    // At once, and not when some other limit of time has passed.
    expect(toy.clock.now()).toBeLessThan(65_000);
    if (place.alone) expect(toy.clock.now()).toBeLessThan(2000);
    return ends;
  };

  test('by cancel, twice', async () => {
    const toy = start(place.options());
    const accepted: boolean[] = [];
    place.when(toy, () => accepted.push(toy.migration.cancel('enough'), toy.migration.cancel('enough')));
    const ends = await check(toy);
    expect(accepted.slice(0, 2)).toEqual([true, false]);
    expect(accepted.slice(2).every((again) => !again)).toBe(true);
    expect(toy.migration.cancel()).toBe(false);
    expect(states(toy.events)).toEqual(place.states);
    expect(ends.sent).toMatchObject({ reason: { message: 'the migration was cancelled: enough', remote: false } });
    if (!place.alone && place.receivedCode === undefined)
      expect(ends.received).toMatchObject({ reason: { remote: true } });
  });

  test('by a signal', async () => {
    const stop = new AbortController();
    const options = place.options();
    const toy = start({ ...options, migrate: { ...options.migrate, signal: stop.signal } });
    place.when(toy, () => stop.abort(new Error('shutdown')));
    const ends = await check(toy);
    expect(ends.sent).toMatchObject({ reason: { message: expect.stringContaining('shutdown') } });
  });

  test('not by unsubscribing, which controls nothing', async () => {
    const toy = start(place.options());
    const second = toy.migration.subscribe();
    const accepted: boolean[] = [];
    place.when(toy, () => {
      const { state } = toy.migration;
      second.unsubscribe();
      toy.unsubscribe();
      expect(toy.migration.state).toBe(state);
      accepted.push(toy.migration.cancel());
    });
    await check(toy);
    expect(accepted[0]).toBe(true);
  });

  test('by disposing of it, which resolves when it is over', async () => {
    const toy = start(place.options());
    let disposed: MigrationState | undefined;
    place.when(toy, () => {
      void toy.migration[Symbol.asyncDispose]().then(() => {
        disposed = toy.migration.state;
      });
    });
    await check(toy);
    expect(disposed).toBe('cancelled');
  });

  test('by the destination', async () => {
    if (place.alone) return;
    const toy = start(place.options());
    const accepted: boolean[] = [];
    place.when(toy, () => accepted.push(toy.incoming.cancel('no room'), toy.incoming.cancel('no room')));
    const ends = await toy.settled();
    expectStayed(toy, ends, 'GODWIT_CANCELLED');
    expect(ends.receivedCode).toBe('GODWIT_CANCELLED');
    expect(accepted.slice(0, 2)).toEqual([true, false]);
    expect(toy.migration.state).toBe('failed');
    expect(toy.destination.resumes).toBe(0);
    expect(ends.sent).toMatchObject({ reason: { remote: true, message: expect.stringContaining('no room') } });
  });
});

test('a VM that prepare builds after the migration has ended is abandoned', async () => {
  let build: (vm: ToyVm) => void = () => {};
  const toy = start({
    prepare: () =>
      new Promise((resolve) => {
        build = resolve;
      }),
  });
  void toy.clock.sleep(100).then(() => toy.migration.cancel());
  expectStayed(toy, await toy.settled(), 'GODWIT_CANCELLED');
  expect(toy.destination.abandoned).toBeUndefined();
  build(toy.destination);
  await toy.clock.sleep(1);
  expect(toy.destination.abandoned).toMatchObject({ code: 'GODWIT_CANCELLED' });
});

test('a link that is made after the migration has ended is dropped', async () => {
  let toy: Toy | undefined;
  const connector: LinkConnector = {
    connect: async (request) => {
      await (toy as Toy).clock.sleep(5000);
      return (toy as Toy).link.connector.connect(request, new AbortController().signal);
    },
  };
  toy = start({ connector });
  void toy.clock.sleep(1000).then(() => toy?.migration.cancel());
  // Whoever receives goes on waiting for a source.
  void toy.clock.sleep(10_000).then(() => toy?.incoming.cancel());
  const ends = await toy.settled();
  expectStayed(toy, ends, 'GODWIT_CANCELLED');
  expect(ends.received).toMatchObject({ reason: { code: 'GODWIT_CANCELLED', remote: false } });
  expect(toy.link.openStreams).toBe(0);
});

test('after go and after the end it does nothing', async () => {
  const accepted: boolean[] = [];
  const toy: Toy = start({
    link: {
      fromSource: (frame, payload) => {
        if (frame.type === 'go') accepted.push(toy.migration.cancel());
        return { frame, payload };
      },
      fromDestination: (frame, payload) => {
        if (frame.type === 'running') accepted.push(toy.migration.cancel(), toy.incoming.cancel());
        return { frame, payload };
      },
    },
  });
  const ends = await toy.settled();
  expectMoved(toy, ends);
  expect(accepted).toEqual([false, false, false]);
  expect([toy.migration.cancel(), toy.incoming.cancel()]).toEqual([false, false]);
  toy.unsubscribe();
  expect(toy.migration.state).toBe('completed');
});

test('cancelled while it is failing: the failure is what it says', async () => {
  const { source, destination } = device({ failSave: 1 })();
  const accepted: boolean[] = [];
  source.onResume = () => void accepted.push(toy.migration.cancel());
  const toy = start({ source, destination });
  expectStayed(toy, await toy.settled(), 'GODWIT_DEVICE_FAILED');
  expect(accepted).toEqual([false]);
  expect(toy.migration.state).toBe('failed');
});

test('a cancelled guest that cannot be resumed', async () => {
  const source = filledVm();
  source.onResume = () => {
    throw new Error('no');
  };
  const toy = start({ source, migrate: { pauseBeforeSwitchover: true } });
  atState('pre-switchover')(toy, () => toy.migration.cancel());
  const ends = await toy.settled();
  expect(ends.code).toBe('GODWIT_VM_FAILED');
  expect(toy.migration.state).toBe('failed');
  expect(ends.receivedCode).toBe('GODWIT_VM_FAILED');
});

test('a silent subscriber does not keep the result from being known', async () => {
  const toy = start({});
  toy.migration.subscribe();
  expectMoved(toy, await toy.settled());
});

import {
  type Clock,
  type Frame,
  type FrameStream,
  type GodwitError,
  type MigrateOptions,
  roundCap,
} from '@godwit/core';
import { engineParts, FaultyDevice, type FrameTap, ToyVm, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { BLOCKS, expectMoved, filledVm, start, switchAfter, type Toy, type ToyOptions } from './toy-migration.js';

const { keepAlive, keepaliveTimes } = engineParts;

/** Fifteen minutes, in milliseconds: many times what is waited for in silence. */
const LONG = 900_000;
/** Shorter than every other time limit: what ends a silent link here is its silence. */
const QUICK = { keepaliveMs: 2000, silenceTimeoutMs: 10_000 } as const;

/** Its end of a link that is dropped is seen by the other, as on no cable that was cut: so one side at a time looks. */
describe.each(['source', 'destination'] as const)('a link that says nothing any more, noticed by the %s', (notices) => {
  const looking = (role: string) => (role === notices ? QUICK : { keepaliveMs: 2000, silenceTimeoutMs: 0 });

  /** From the first frame of this type on, nothing arrives on this connection, in either direction. */
  function silentFrom(direction: 'source' | 'destination', type: Frame['type'], policy = switchAfter(2)): Toy {
    let silent = false;
    let once = true;
    const tap =
      (from: 'source' | 'destination'): FrameTap =>
      (frame, payload) => {
        // The next connection is a link that works.
        if (frame.type === 'hello') silent = false;
        if (once && from === direction && frame.type === type) {
          once = false;
          silent = true;
        }
        return silent ? undefined : { frame, payload };
      };
    return start({
      source: withDevice(filledVm()),
      destination: new ToyVm(BLOCKS, { running: false, devices: [new FaultyDevice('uart')] }),
      link: { fromSource: tap('source'), fromDestination: tap('destination') },
      migrate: { verify: true, policy, ...looking('source') },
      receive: looking('destination'),
    });
  }

  /** Why the side that looks let go of the link. */
  const reasons = (toy: Toy) =>
    [...(notices === 'source' ? toy.events : toy.incomingEvents)].flatMap((event) =>
      event.type === 'link-lost' ? [event.reason.message] : [],
    );
  const heard = expect.stringMatching(/^nothing was received from the \w+ for silenceTimeoutMs \(10000 ms\)/);

  test.each([
    ['source', 'pages'],
    ['source', 'roundEnd'],
    ['destination', 'roundAck'],
  ] as const)('before the switchover, from the %s\'s "%s" on: the next link goes on', async (direction, type) => {
    const toy = silentFrom(direction, type);
    expectMoved(toy, await toy.settled());
    expect(reasons(toy)).toEqual([heard]);
    expect(toy.clock.sleepers).toBe(0);
  });

  /** When the guest was resumed at the source. */
  const resumedAt = (toy: Toy): readonly number[] => {
    const times: number[] = [];
    toy.source.onResume = () => void times.push(toy.clock.now());
    return times;
  };

  // The guest does not wait for the silence to be noticed, except where RAM is compared.
  test.each([
    ['source', 'switchover', 650],
    ['destination', 'ready', 650],
    ['source', 'digestsEnd', 12_500],
    ['destination', 'verified', 12_500],
  ] as const)(
    'with the guest paused, from the %s\'s "%s" on: it runs on at the source within %i ms, and moves later',
    async (direction, type, withinMs) => {
      const toy = silentFrom(direction, type);
      const resumed = resumedAt(toy);
      expectMoved(toy, await toy.settled());
      expect(resumed).toHaveLength(1);
      expect(resumed[0]).toBeLessThanOrEqual(withinMs);
      expect(reasons(toy)).toEqual([heard]);
      expect(toy.events.filter(({ type }) => type === 'went-back')).toHaveLength(1);
      expect(toy.clock.sleepers).toBe(0);
    },
  );

  test('with the guest paused for as long as it takes: the next link goes on where the last one was lost', async () => {
    const toy = silentFrom('destination', 'ready', roundCap(2, 'switchover'));
    const resumed = resumedAt(toy);
    expectMoved(toy, await toy.settled());
    expect([resumed, reasons(toy)]).toEqual([[], [heard]]);
    expect(toy.clock.now()).toBeLessThan(13_000);
  });

  test.each([
    ['source', 'go'],
    ['destination', 'running'],
  ] as const)('after "go", from the %s\'s "%s" on: it is settled over the next link', async (direction, type) => {
    const toy = silentFrom(direction, type);
    expectMoved(toy, await toy.settled());
    if (notices === 'destination') expect(reasons(toy)).toEqual([heard]);
    expect(toy.clock.sleepers).toBe(0);
  });

  test('in pre-switchover', async () => {
    let silent = false;
    const tap: FrameTap = (frame, payload) => {
      if (frame.type === 'hello') silent = false;
      return silent ? undefined : { frame, payload };
    };
    const toy = start({
      link: { fromSource: tap, fromDestination: tap },
      migrate: { pauseBeforeSwitchover: true, ...looking('source') },
      receive: looking('destination'),
    });
    let held = 0;
    toy.migration.subscribe((event) => {
      if (event.type !== 'state' || event.state !== 'pre-switchover') return;
      if (++held === 1) silent = true;
      else toy.migration.proceed();
    });
    const resumed = resumedAt(toy);
    expectMoved(toy, await toy.settled());
    expect([held, resumed.length]).toEqual([2, 1]);
    expect(resumed[0]).toBeLessThanOrEqual(12_500);
    expect(reasons(toy)).toEqual([heard]);
  });
});

describe('a peer that takes its time is alive', () => {
  async function withoutLoss(options: (clock: VirtualClock) => ToyOptions, migrate: MigrateOptions = {}) {
    const clock = new VirtualClock();
    const toy = start({
      ...options(clock),
      link: { clock },
      migrate: {
        clock,
        progressIntervalMs: 0,
        switchoverTimeoutMs: 2 * LONG,
        handshakeTimeoutMs: 2 * LONG,
        ...migrate,
      },
      receive: { clock, progressIntervalMs: 0, handshakeTimeoutMs: 2 * LONG },
    });
    toy.migration.subscribe((event) => {
      if (event.type === 'state' && event.state === 'pre-switchover')
        void clock.sleep(LONG).then(() => toy.migration.proceed());
    });
    expectMoved(toy, await toy.settled());
    expect(clock.now()).toBeGreaterThanOrEqual(LONG);
    const lost = [...toy.events, ...toy.incomingEvents].filter(({ type }) => type === 'link-lost');
    expect(lost).toEqual([]);
    expect(clock.sleepers).toBe(0);
  }

  /** Without it the guest would run on at the source. */
  const FORCE = { force: true };

  test('while a device loads for a quarter of an hour', () =>
    withoutLoss((clock) => {
      const slow = new FaultyDevice('uart');
      const load = slow.load.bind(slow);
      slow.load = async (...given) => {
        await clock.sleep(LONG);
        return load(...given);
      };
      return {
        source: withDevice(filledVm()),
        destination: new ToyVm(BLOCKS, { running: false, devices: [slow] }),
      };
    }, FORCE));

  test('while a device saves for a quarter of an hour', () =>
    withoutLoss((clock) => {
      const slow = new FaultyDevice('uart', Uint8Array.of(1));
      slow.save = async function* () {
        await clock.sleep(LONG);
        yield Uint8Array.of(1);
      };
      const source = filledVm();
      source.devices = [slow];
      return { source, destination: new ToyVm(BLOCKS, { running: false, devices: [new FaultyDevice('uart')] }) };
    }, FORCE));

  test('while it starts the guest for a quarter of an hour', () =>
    withoutLoss((clock) => {
      const destination = new ToyVm(BLOCKS, { running: false });
      const resume = destination.resume.bind(destination);
      destination.resume = async () => {
        await clock.sleep(LONG);
        return resume();
      };
      return { destination };
    }));

  test('a quarter of an hour in pre-switchover', () => withoutLoss(() => ({}), { pauseBeforeSwitchover: true }));
});

describe('one end of a link', () => {
  class Wire {
    readonly over = new AbortController();
    readonly written: Frame[] = [];
    aborted: GodwitError | undefined;
    bytesRead = 0;
    bytesWritten = 0;
    /** Until then a write does not end. */
    taken: Promise<void> = Promise.resolve();

    readonly stream = Object.defineProperties({} as FrameStream, {
      bytesRead: { get: () => this.bytesRead },
      bytesWritten: { get: () => this.bytesWritten },
      write: {
        value: async (frame: Frame) => {
          this.written.push(frame);
          await this.taken;
          this.bytesWritten += 1;
        },
      },
      abort: {
        value: (reason: GodwitError) => {
          this.aborted = reason;
        },
      },
    });
  }

  /** A clock that can jump, as it does while this process is stopped; `onYield` is called with each turn of the event loop. */
  function jumping(onYield: () => void = () => {}) {
    const real = new VirtualClock();
    let skipped = 0;
    const clock: Clock = {
      now: () => real.now() + skipped,
      sleep: (ms, signal) => real.sleep(ms, signal),
      yield: async () => {
        await real.yield();
        onYield();
      },
    };
    const skip = (ms: number): void => {
      skipped = ms;
    };
    return { clock, skip };
  }

  function keep(wire: Wire, clock: Clock, times: { keepaliveMs?: number; silenceTimeoutMs?: number } = {}) {
    const streams = () => [wire.stream];
    return keepAlive({ ...keepaliveTimes(times), peer: 'source', streams, clock, signal: wire.over.signal });
  }

  test('silence is noticed after silenceTimeoutMs, at most a look later', async () => {
    const clock = new VirtualClock();
    const wire = new Wire();
    await keep(wire, clock);
    expect(wire.aborted).toMatchObject({
      code: 'GODWIT_LINK_LOST',
      message: 'nothing was received from the source for silenceTimeoutMs (30000 ms): the link counts as lost',
    });
    expect(clock.now()).toBeGreaterThanOrEqual(30_000);
    expect(clock.now()).toBeLessThanOrEqual(32_500);
    expect(wire.written).toEqual(Array.from({ length: wire.written.length }, () => ({ type: 'ping', id: 0 })));
    expect(wire.written.length).toBeGreaterThanOrEqual(5);
  });

  test('a peer that sends a byte every twenty seconds is alive', async () => {
    const clock = new VirtualClock();
    const wire = new Wire();
    const keeping = keep(wire, clock);
    for (let i = 0; i < 100; i++) {
      await clock.sleep(20_000);
      wire.bytesRead++;
    }
    expect(wire.aborted).toBeUndefined();
    wire.over.abort();
    await keeping;
    expect(clock.sleepers).toBe(0);
  });

  test('whoever writes and hears enough sends no ping', async () => {
    const clock = new VirtualClock();
    const wire = new Wire();
    const keeping = keep(wire, clock);
    for (let i = 0; i < 100; i++) {
      await clock.sleep(1000);
      wire.bytesRead++;
      wire.bytesWritten++;
    }
    expect(wire.written).toEqual([]);
    wire.over.abort();
    await keeping;
  });

  test.each(['bytesRead', 'bytesWritten'] as const)('where only %s grows, the peer is asked', async (count) => {
    const clock = new VirtualClock();
    const wire = new Wire();
    const keeping = keep(wire, clock, { silenceTimeoutMs: 0 });
    for (let i = 0; i < 100; i++) {
      await clock.sleep(1000);
      wire[count]++;
    }
    expect(wire.written.length).toBeGreaterThanOrEqual(14);
    wire.over.abort();
    await keeping;
  });

  test('behind what the peer does not take, one ping waits', async () => {
    const clock = new VirtualClock();
    const wire = new Wire();
    wire.taken = new Promise(() => {});
    await keep(wire, clock);
    expect(wire.written).toHaveLength(1);
    expect(wire.aborted?.code).toBe('GODWIT_LINK_LOST');
  });

  test.each([
    [4096, 'alive: answers are behind what is still in our own buffers'],
    [4095, 'silent: those may be pings'],
  ])('a peer that takes %i bytes of ours between two looks is %s', async (bytes) => {
    const clock = new VirtualClock();
    const wire = new Wire();
    wire.taken = new Promise(() => {});
    const keeping = keep(wire, clock, { keepaliveMs: 4000, silenceTimeoutMs: 8000 });
    for (let i = 0; i < 20; i++) {
      await clock.sleep(1000);
      wire.bytesWritten += bytes;
    }
    expect(wire.aborted?.code).toBe(bytes === 4096 ? undefined : 'GODWIT_LINK_LOST');
    wire.over.abort();
    await keeping;
  });

  test("time for which this process was stopped is nobody else's silence", async () => {
    const wire = new Wire();
    const { clock, skip } = jumping();
    const keeping = keep(wire, clock);
    await clock.sleep(10_000);
    skip(LONG);
    await clock.sleep(10_000);
    expect(wire.aborted).toBeUndefined();
    await keeping;
    expect(wire.aborted).toBeDefined();
  });

  test('of such a time no more than two looks count', async () => {
    const wire = new Wire();
    const { clock, skip } = jumping();
    const keeping = keep(wire, clock, { keepaliveMs: 0, silenceTimeoutMs: 4000 });
    // Looks are a second apart.
    await clock.sleep(1500);
    skip(LONG);
    await keeping;
    expect([wire.aborted?.code, clock.now() - LONG]).toEqual(['GODWIT_LINK_LOST', 3000]);
  });

  test('what has come while this process was stopped is read before the peer counts as silent', async () => {
    const wire = new Wire();
    const { clock } = jumping(() => {
      if (clock.now() === 4000) wire.bytesRead++;
    });
    await keep(wire, clock, { keepaliveMs: 0, silenceTimeoutMs: 4000 });
    expect(clock.now()).toBe(8000);
  });

  test.each([
    { keepaliveMs: 0, silenceTimeoutMs: 4000 },
    { keepaliveMs: 4000, silenceTimeoutMs: 0 },
  ])('a link that has ended meanwhile is left alone: %j', async (times) => {
    const wire = new Wire();
    const { clock } = jumping(() => {
      if (clock.now() === 4000) wire.over.abort(new Error('over'));
    });
    await keep(wire, clock, times);
    expect([wire.written, wire.aborted, clock.now()]).toEqual([[], undefined, 4000]);
  });

  test('a ping that cannot be written is followed by the next one, and is no failure of this process', async () => {
    const clock = new VirtualClock();
    const wire = new Wire();
    wire.taken = Promise.reject(new Error('EPIPE'));
    wire.taken.catch(() => {});
    await keep(wire, clock, { keepaliveMs: 1000, silenceTimeoutMs: 4000 });
    await clock.yield();
    expect(wire.written.length).toBeGreaterThan(1);
  });

  test('times of a millisecond are times', async () => {
    const clock = new VirtualClock();
    const asking = new Wire();
    const keeping = keep(asking, clock, { keepaliveMs: 1, silenceTimeoutMs: 0 });
    await clock.sleep(100);
    expect(asking.written.length).toBeGreaterThan(50);
    asking.over.abort();
    await keeping;
    const silent = new Wire();
    await keep(silent, clock, { keepaliveMs: 0, silenceTimeoutMs: 1 });
    expect(silent.aborted?.code).toBe('GODWIT_LINK_LOST');
  });

  test('each can be turned off', async () => {
    const clock = new VirtualClock();
    const off = new Wire();
    await keep(off, clock, { keepaliveMs: 0, silenceTimeoutMs: 0 });
    expect([off.written, off.aborted, clock.now()]).toEqual([[], undefined, 0]);
    const quiet = new Wire();
    await keep(quiet, clock, { keepaliveMs: 0 });
    expect([quiet.written, quiet.aborted?.code]).toEqual([[], 'GODWIT_LINK_LOST']);
  });

  test('times that would take every quiet link for lost are refused', () => {
    expect(keepaliveTimes({})).toEqual({ keepaliveMs: 5000, silenceTimeoutMs: 30_000 });
    for (const times of [
      { silenceTimeoutMs: 9999 },
      { keepaliveMs: 15_001 },
      { silenceTimeoutMs: 1 },
      { keepaliveMs: -1 },
      { silenceTimeoutMs: Number.NaN },
    ])
      expect(() => keepaliveTimes(times)).toThrow(expect.objectContaining({ code: 'GODWIT_INVALID_ARGUMENT' }));
    expect(() => keepaliveTimes({ silenceTimeoutMs: 9999 })).toThrow(/silenceTimeoutMs \(9999\).*keepaliveMs \(5000\)/);
    expect(() => keepaliveTimes({ silenceTimeoutMs: -1 })).toThrow(/^silenceTimeoutMs /);
    expect(() => keepaliveTimes({ keepaliveMs: -1 })).toThrow(/^keepaliveMs /);
  });
});

function withDevice(vm: ToyVm): ToyVm {
  vm.devices = [new FaultyDevice('uart', Uint8Array.of(1, 2, 3))];
  return vm;
}

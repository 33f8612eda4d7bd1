import {
  claimOf,
  estimate,
  type Frame,
  firstOpinion,
  type LinkConnector,
  migrate,
  receive,
  roundCap,
  withinDowntimeLimit,
} from '@godwit/core';
import {
  FaultyDevice,
  ManualTracker,
  type MemoryLinkOptions,
  memoryLink,
  ToyFaultService,
  ToyVm,
  VirtualClock,
} from '@godwit/core/testing';
import { afterEach, describe, expect, jest, test } from '@jest/globals';
import { codeOf, PAGE } from '../toy-migration.js';

jest.setTimeout(60_000);

/** Never slows the guest, and gives up in the end. */
const GENTLE = firstOpinion(withinDowntimeLimit, roundCap(12, 'abort'));
const PAGES = 1024;
const BLOCKS = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: PAGES * PAGE }];

/** Ends the writing of all guests of a test. */
let over = new AbortController();
afterEach(() => {
  over.abort();
  over = new AbortController();
});

/** A guest that writes `pages` pages, one after the other, `perSecond` of them in a second of `clock`. */
function writingGuest(clock: VirtualClock, pages: number, perSecond: number): ToyVm {
  const vm = new ToyVm(BLOCKS);
  for (let page = 0; page < PAGES; page++) vm.write(0, page * PAGE, Uint8Array.of(1 + (page % 250)));
  vm.track(new ManualTracker(vm.memory));
  const { signal } = over;
  const write = async () => {
    for (let at = 0; !signal.aborted; ) {
      await clock.sleep(5, signal);
      if (!vm.running) continue;
      for (let i = 0; i < perSecond / 200; i++, at = (at + 1) % pages) vm.write(0, at * PAGE, Uint8Array.of(at & 0xff));
    }
  };
  if (pages > 0) write().catch(() => {});
  return vm;
}

/** A destination that abandons what it is asked about, and the connector to it. */
function destination(clock: VirtualClock, options: MemoryLinkOptions = {}) {
  const link = memoryLink({ clock, latencyMs: 1, ...options });
  const vm = new ToyVm(BLOCKS, { running: false });
  const incoming = receive(link.listener, { prepare: () => vm, clock });
  const end = async () => {
    incoming.cancel('the test is over');
    await incoming.result.catch(() => {});
    expect(link.openStreams).toBe(0);
  };
  return { vm, link, incoming, end };
}

describe('an estimate', () => {
  test('of an idle guest: it converges, and the VM was neither read nor paused', async () => {
    const clock = new VirtualClock();
    const vm = writingGuest(clock, 0, 0);
    const view = jest.spyOn(vm.memory.blocks[0] as { view: (offset: number, length: number) => Uint8Array }, 'view');
    vm.devices = [Object.assign(new FaultyDevice('disk'), { stateBytes: () => 3e6 })];
    const said = await estimate(vm, 100e6, { clock });
    expect(said).toMatchObject({ converges: true, certain: true, reason: undefined, link: { bytesPerSecond: 100e6 } });
    expect(said.sample).toMatchObject({ ramBytes: PAGES * PAGE, populatedBytes: PAGES * PAGE, pageSize: PAGE });
    expect(said.sample.workingSet.map(({ pages }) => pages)).toEqual(said.sample.workingSet.map(() => 0));
    // 4 MiB of RAM, and 3 MB of state with the guest paused.
    expect(said.totalMs.expected).toBeGreaterThan(70);
    expect(said.downtimeMs.expected).toBeGreaterThan(30);
    expect(said.downtimeMs.low).toBeLessThanOrEqual(said.downtimeMs.expected);
    expect(said.downtimeMs.high).toBeGreaterThanOrEqual(said.downtimeMs.expected);
    expect(vm.pauses).toBe(0);
    expect(view.mock.calls.filter(([, length]) => length > 1)).toEqual([]);
    expect(claimOf(vm).state).toBe('idle');
  });

  test('of a VM whose devices do not say how much state they have counts them with some', async () => {
    const clock = new VirtualClock();
    const vm = writingGuest(clock, 0, 0);
    const without = await estimate(vm, 100e6, { clock });
    vm.devices = ['port', 'console', 'vcpu0'].map((id) => new FaultyDevice(id));
    const said = await estimate(vm, 100e6, { clock });
    expect(said).toMatchObject({ converges: true, certain: true, reason: undefined });
    // Some registers, and no more: three times 4 KiB take an eighth of a millisecond.
    expect(said.downtimeMs.expected).toBeGreaterThan(without.downtimeMs.expected);
    expect(said.downtimeMs.expected).toBeLessThan(without.downtimeMs.expected + 10);
  });

  test('knows the distinct pages that a guest writes in windows of all lengths', async () => {
    const clock = new VirtualClock();
    const vm = writingGuest(clock, 400, 2000);
    const { sample } = await estimate(vm, 1e9, { clock });
    const around = (ms: number): number => sample.workingSet.find(({ windowMs }) => windowMs >= ms * 0.9)?.pages ?? -1;
    expect(around(50)).toBeGreaterThan(90);
    expect(around(50)).toBeLessThan(130);
    expect(around(100)).toBeGreaterThan(180);
    expect(around(100)).toBeLessThan(230);
    // From 200 ms on it has written all of them.
    expect(around(400)).toBe(400);
    expect(around(1600)).toBe(400);
  });

  test.each([
    // 1,000 pages, all again each 100 ms: 4 MB, over 8 MB/s it takes 512 ms, over 40 MB/s 102 ms.
    [8e6, false],
    [40e6, true],
  ])('says whether the guest converges over %d bytes a second: %s', async (bytesPerSecond, converges) => {
    const clock = new VirtualClock();
    const vm = writingGuest(clock, 1000, 10_000);
    const said = await estimate(vm, bytesPerSecond, {
      clock,
      policy: GENTLE,
    });
    expect(said.converges).toBe(converges);
    expect(said.reason === undefined).toBe(converges);
  });

  test('measures the link to a destination, which throws the bytes away and abandons its VM', async () => {
    const clock = new VirtualClock();
    const vm = writingGuest(clock, 0, 0);
    const there = destination(clock, { bytesPerSecond: 50e6 });
    const { link } = await estimate(vm, there.link.connector, { clock, sampleMs: 200, description: { name: 'box' } });
    expect(link.bytesPerSecond).toBeGreaterThan(45e6);
    expect(link.bytesPerSecond).toBeLessThan(52e6);
    expect(link.latencyMs).toBeGreaterThanOrEqual(1);
    await clock.sleep(1000);
    expect(there.vm.abandoned?.message).toMatch(/dry run/);
    expect(there.incoming.state).toBe('none');
    await there.end();
  });

  test('needs a destination that can be measured', async () => {
    const clock = new VirtualClock();
    const vm = writingGuest(clock, 0, 0);
    const noProbe = (frame: Frame, payload: Uint8Array | undefined) => ({
      frame: frame.type === 'welcome' ? { ...frame, features: ['back'] } : frame,
      payload,
    });
    const there = destination(clock, { fromDestination: noProbe });
    await expect(estimate(vm, there.link.connector, { clock })).rejects.toMatchObject({
      code: 'GODWIT_UNSUPPORTED',
      message: expect.stringMatching(/give a rate/),
    });
    expect(claimOf(vm).state).toBe('idle');
    await there.end();
  });

  test('claims the VM: neither a migration nor another estimate begins meanwhile', async () => {
    const clock = new VirtualClock();
    const vm = writingGuest(clock, 0, 0);
    const first = estimate(vm, 1e9, { clock });
    await expect(estimate(vm, 1e9, { clock })).rejects.toMatchObject({ code: 'GODWIT_CLAIMED' });
    const { connector } = memoryLink({ clock });
    await expect(migrate(vm, connector, { clock }).result).rejects.toMatchObject({ code: 'GODWIT_CLAIMED' });
    await expect(first).resolves.toMatchObject({ converges: true });
    expect(claimOf(vm).state).toBe('idle');
  });

  test.each<[string, (vm: ToyVm) => void, string]>([
    ['has no tracker', (vm) => Object.assign(vm, { trackers: [] }), 'GODWIT_INVALID_ARGUMENT'],
    [
      'has a tracker that fails',
      (vm) => {
        const [tracker] = vm.trackers;
        vm.trackers = [
          Object.assign(Object.create(tracker as object), { harvest: async () => Promise.reject(new Error('EIO')) }),
        ];
      },
      'GODWIT_TRACKER_FAILED',
    ],
    [
      'has a tracker that cannot start',
      (vm) => {
        const [tracker] = vm.trackers;
        vm.trackers = [
          Object.assign(Object.create(tracker as object), { start: async () => Promise.reject(new Error('EBUSY')) }),
        ];
      },
      'GODWIT_TRACKER_FAILED',
    ],
  ])('of a VM that %s is an error, and the VM is free afterwards', async (_, spoil, code) => {
    const clock = new VirtualClock();
    const vm = writingGuest(clock, 0, 0);
    spoil(vm);
    await expect(estimate(vm, 1e9, { clock })).rejects.toMatchObject({ code });
    expect(claimOf(vm).state).toBe('idle');
  });

  test('ends when its signal aborts, and stops the trackers', async () => {
    const clock = new VirtualClock();
    const vm = writingGuest(clock, 0, 0);
    const tracker = vm.trackers[0] as ManualTracker;
    const stop = new AbortController();
    const estimating = estimate(vm, 1e9, { clock, signal: stop.signal });
    await clock.sleep(500);
    stop.abort(new Error('enough'));
    await expect(estimating).rejects.toThrow('enough');
    expect([tracker.starts, tracker.stops, claimOf(vm).state]).toEqual([1, 1, 'idle']);
  });

  test('of a migration that may go on as post-copy counts on it', async () => {
    const clock = new VirtualClock();
    const settings = { clock, policy: 'hybrid', postcopy: true, sampleMs: 1000 } as const;
    const { converges, totalMs, downtimeMs } = await estimate(writingGuest(clock, 1000, 10_000), 8e6, settings);
    expect(converges).toBe(true);
    // 4 MB once, and all of it again while the guest runs at the destination.
    expect(totalMs.expected).toBeGreaterThan(900);
    expect(downtimeMs.expected).toBeLessThan(300);
  });

  test.each([0, -1, Number.NaN, Number.POSITIVE_INFINITY])(
    'over a link of %d bytes a second is refused',
    async (rate) => {
      const vm = writingGuest(new VirtualClock(), 0, 0);
      await expect(estimate(vm, rate)).rejects.toMatchObject({ code: 'GODWIT_INVALID_ARGUMENT' });
      expect(claimOf(vm).state).toBe('idle');
    },
  );
});

describe('refuseAbove', () => {
  test('refuses a guest that would not converge before a page moves', async () => {
    const clock = new VirtualClock();
    const vm = writingGuest(clock, 1000, 10_000);
    const there = destination(clock, { bytesPerSecond: 8e6 });
    const migration = migrate(vm, there.link.connector, {
      clock,
      policy: GENTLE,
      refuseAbove: { downtimeMs: 1000 },
    });
    const seen: string[] = [];
    migration.subscribe(({ type }) => seen.push(type));
    const ends = await Promise.allSettled([migration.result, there.incoming.result]);
    expect(ends[0]).toMatchObject({
      reason: { code: 'GODWIT_ESTIMATE_EXCEEDED', message: expect.stringMatching(/would not converge.*8\.\d MB\/s/) },
    });
    expect(codeOf(ends[1] as PromiseSettledResult<unknown>)).toBe('GODWIT_ESTIMATE_EXCEEDED');
    expect(seen).not.toContain('round-start');
    expect([vm.pauses, vm.running, claimOf(vm).state]).toEqual([0, true, 'idle']);
    expect((vm.trackers[0] as ManualTracker).stops).toBe(1);
    expect(there.vm.abandoned).toBeDefined();
  });

  test('refuses a guest that would be down for too long', async () => {
    const clock = new VirtualClock();
    const vm = writingGuest(clock, 0, 0);
    vm.devices = [Object.assign(new FaultyDevice('disk'), { stateBytes: () => 40e6 })];
    const link = memoryLink({ clock, bytesPerSecond: 100e6 });
    const devices = [new FaultyDevice('disk')];
    const incoming = receive(link.listener, { prepare: () => new ToyVm(BLOCKS, { running: false, devices }), clock });
    const migration = migrate(vm, link.connector, { clock, refuseAbove: { downtimeMs: 200 } });
    await expect(migration.result).rejects.toMatchObject({
      code: 'GODWIT_ESTIMATE_EXCEEDED',
      message: expect.stringMatching(/down for \d+ ms, and refuseAbove.downtimeMs is 200 ms/),
    });
    await incoming.result.catch(() => {});
  });

  test('admits a guest that is below, whose migration has every write, though its device does not say its size', async () => {
    const clock = new VirtualClock();
    const vm = writingGuest(clock, 200, 2000);
    vm.devices = [new FaultyDevice('port', Uint8Array.of(1, 2, 3))];
    const there = destination(clock, { bytesPerSecond: 100e6 });
    there.vm.devices = [new FaultyDevice('port')];
    const migration = migrate(vm, there.link.connector, { clock, refuseAbove: { downtimeMs: 300, totalMs: 60_000 } });
    await Promise.all([migration.result, there.incoming.result]);
    expect(vm.memory.firstDifference(there.vm.memory)).toBeUndefined();
  });

  test('admits a guest that converges by post-copy alone, where the migration may go on so', async () => {
    const clock = new VirtualClock();
    const vm = writingGuest(clock, 1000, 10_000);
    const link = memoryLink({ clock, latencyMs: 1, bytesPerSecond: 8e6 });
    const there = new ToyVm(BLOCKS, { running: false });
    const incoming = receive(link.listener, { prepare: () => there, clock, faults: new ToyFaultService() });
    const migration = migrate(vm, link.connector, {
      clock,
      policy: 'hybrid',
      postcopy: true,
      pageChannels: 1,
      refuseAbove: { downtimeMs: 300, sampleMs: 1000 },
    });
    const [{ postcopy }] = await Promise.all([migration.result, incoming.result]);
    expect(postcopy?.pages).toBeGreaterThan(0);
    expect(vm.memory.firstDifference(there.memory)).toBeUndefined();
  });

  test.each([{ downtimeMs: -1 }, { totalMs: Number.NaN }, { sampleMs: -5 }])('%j is refused', (refuseAbove) => {
    const { connector } = memoryLink() as { connector: LinkConnector };
    expect(() => migrate(new ToyVm(BLOCKS), connector, { refuseAbove })).toThrow(/refuseAbove\./);
  });
});

import { type ConvergencePolicy, receive, roundCap } from '@godwit/core';
import { FaultyDevice, FaultyTracker, type FrameTap, memoryLink, ToyVm, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { IterativeDevice } from './iterative-device.js';
import { ResendWatch } from './resend-watch.js';
import { BLOCKS, expectMoved, filledVm, PAGE, start, states, switchAfter, type Toy } from './toy-migration.js';

interface CutToy extends Toy {
  readonly watch: ResendWatch;
  readonly frames: () => number;
  readonly device: IterativeDevice;
  readonly loaded: IterativeDevice;
}

/** A complete migration, with several rounds, devices and verification, cut when the Nth frame is on its way. */
function cutAt(
  n: number,
  direction: 'fromSource' | 'fromDestination',
  delivered: boolean,
  pageChannels: number,
  policy: ConvergencePolicy = switchAfter(3),
): CutToy {
  const source = filledVm();
  source.trackers = [new FaultyTracker(source.software, source.memory, {})];
  const device = new IterativeDevice();
  const loaded = new IterativeDevice();
  source.devices = [device, new FaultyDevice('uart', Uint8Array.of(1, 2, 3))];
  const destination = new ToyVm(BLOCKS, { running: false, devices: [loaded, new FaultyDevice('uart')] });
  const watch = new ResendWatch();
  let frames = 0;
  const cutting =
    (inner: FrameTap): FrameTap =>
    (frame, payload, channel) => {
      if (source.running && frame.type === 'roundEnd') source.write(0, (frame.round % 60) * PAGE, Uint8Array.of(9));
      if (++frames === n) {
        toy.link.cut({ delivered });
        return undefined;
      }
      return inner(frame, payload, channel);
    };
  const toy: Toy = start({
    source,
    destination,
    migrate: { verify: true, pageChannels, policy, random: () => 0.5 },
    link: {
      fromSource: direction === 'fromSource' ? cutting(watch.fromSource) : watch.fromSource,
      fromDestination: direction === 'fromDestination' ? cutting(watch.fromDestination) : watch.fromDestination,
    },
  });
  // Where the first hello is lost, the destination never hears of a source.
  const cancel = () => void (toy.incoming.state === 'none' && toy.incoming.cancel());
  toy.migration.result.then(cancel, cancel);
  return Object.assign(toy, { watch, frames: () => frames, device, loaded });
}

describe.each([0, 2])('a link that is lost once, at any frame, with %i page channels', (pageChannels) => {
  describe.each(['fromSource', 'fromDestination'] as const)('%s', (direction) => {
    test.each([true, false])(
      'what was on its way arrives: %s',
      async (delivered) => {
        const whole = cutAt(0, direction, delivered, pageChannels);
        expectMoved(whole, await whole.settled());
        const total = whole.frames();
        let wentBack = 0;
        for (let n = 1; n <= total; n++) {
          const toy = cutAt(n, direction, delivered, pageChannels);
          const ends = await toy.settled();
          const at = `cut at frame ${n} of ${total}`;
          const { source, destination, migration, incoming, link, watch } = toy;
          expect({ at, open: link.openStreams }).toEqual({ at, open: 0 });
          expect({ at, resent: watch.resent }).toEqual({ at, resent: [] });
          const tracker = source.trackers[0] as FaultyTracker;
          expect(tracker.stops).toBe(tracker.starts);
          expect({ at, codes: [ends.code, ends.receivedCode] }).toEqual({ at, codes: [undefined, undefined] });
          expect({ at, lost: source.memory.firstDifference(destination.memory) }).toEqual({ at, lost: undefined });
          expect([source.running, destination.running, destination.resumes]).toEqual([false, true, 1]);
          expect(migration.ownership).toBe('released');
          expect(['settled', 'untold']).toContain(incoming.ownership);
          expect({ at, loaded: toy.loaded.loaded }).toEqual({ at, loaded: toy.device.yielded });
          // Told, and not found out by waiting.
          expect({ at, late: toy.clock.now() > 40_000 }).toEqual({ at, late: false });
          // Whenever the guest was resumed here, that was going back.
          const back = toy.events.flatMap((event) => (event.type === 'went-back' ? [event] : []));
          expect({ at, resumes: source.resumes, pauses: source.pauses }).toEqual({
            at,
            resumes: back.length,
            pauses: back.length + 1,
          });
          for (const { reason } of back) expect(reason.code).toBe('GODWIT_LINK_LOST');
          expect(ends.sent).toMatchObject({ value: { attempts: { length: back.length } } });
          wentBack += back.length;
        }
        // With the guest paused: from the first frame behind the pause to the last one before "go".
        expect(wentBack).toBeGreaterThanOrEqual(direction === 'fromSource' ? 6 : 2);
      },
      30_000,
    );
  });
});

test('states, events and what they say', async () => {
  const toy = cutAt(9, 'fromSource', false, 0);
  expectMoved(toy, await toy.settled());
  expect(states(toy.events)).toEqual(['setup', 'active', 'reconnecting', 'active', 'device', 'completed']);
  const link = toy.events.filter(({ type }) => type === 'link-lost' || type === 'reconnected');
  expect(link).toEqual([
    { type: 'link-lost', reason: expect.objectContaining({ code: 'GODWIT_LINK_LOST' }) },
    { type: 'reconnected', connection: 2, downMs: 100, restarted: false },
  ]);
  expect(toy.events.flatMap((event) => (event.type === 'ownership' ? [event.ownership] : []))).toEqual([
    'paused',
    'transferring',
    'handedOver',
    'released',
  ]);
  const received = toy.incomingEvents.filter(({ type }) => type === 'reconnected' || type === 'running');
  expect(received).toEqual([
    { type: 'reconnected', connection: 2, peer: 'memory' },
    { type: 'running', resumeMs: 0 },
  ]);
});

test('a restarted destination gets everything again, from round 1, by itself', async () => {
  for (let n = 3; n < 20; n++) {
    const source = filledVm();
    const device = new IterativeDevice();
    source.devices = [device];
    const first = new ToyVm(BLOCKS, { running: false, devices: [new IterativeDevice()] });
    const loaded = new IterativeDevice();
    const second = new ToyVm(BLOCKS, { running: false, devices: [loaded] });
    const watch = new ResendWatch();
    let frames = 0;
    const clock = new VirtualClock();
    const fromSource: FrameTap = (frame, payload, channel) => {
      if (++frames === n && source.running) {
        before.cut();
        link = after;
        incoming = receive(after.listener, { prepare: () => second, clock });
        return undefined;
      }
      return watch.fromSource(frame, payload, channel);
    };
    const before = memoryLink({ clock, fromSource, fromDestination: watch.fromDestination });
    const after = memoryLink({ clock, fromSource, fromDestination: watch.fromDestination });
    let link = before;
    let incoming: Toy['incoming'] | undefined;
    const toy = start({
      source,
      destination: first,
      listener: before.listener,
      connector: { connect: (request, signal) => link.connector.connect(request, signal) },
      migrate: { clock, verify: true, policy: roundCap(3, 'switchover') },
      receive: { clock },
    });
    await toy.migration.result;
    if (incoming === undefined) continue;
    await (incoming as Toy['incoming']).result;
    expect(source.memory.firstDifference(second.memory)).toBeUndefined();
    expect([source.running, first.running, second.running]).toEqual([false, false, true]);
    expect(loaded.loaded).toEqual(device.yielded);
    expect(toy.events).toContainEqual(expect.objectContaining({ type: 'reconnected', restarted: true }));
    expect(watch.resent).toEqual([]);
  }
});

test('a restarted destination whose welcome was lost with its link says it again', async () => {
  let lost = 0;
  for (let n = 3; n < 20; n++) {
    const source = filledVm();
    const first = new ToyVm(BLOCKS, { running: false });
    const second = new ToyVm(BLOCKS, { running: false });
    const clock = new VirtualClock();
    let frames = 0;
    const fromSource: FrameTap = (frame, payload) => {
      // A first loss in the middle of round 1: what the first destination has of it is owed no more.
      if (++frames === 3 || (frames === n && source.running)) {
        before.cut();
        if (frames !== 3) {
          link = after;
          incoming = receive(after.listener, { prepare: () => second, clock });
        }
        return undefined;
      }
      return { frame, payload };
    };
    const before = memoryLink({ clock, fromSource });
    const after = memoryLink({
      clock,
      fromDestination: (frame, payload) => {
        if (frame.type !== 'welcome' || lost >= n - 2) return { frame, payload };
        lost = n - 2;
        after.cut();
        return undefined;
      },
    });
    let link = before;
    let incoming: Toy['incoming'] | undefined;
    const toy = start({
      source,
      destination: first,
      listener: before.listener,
      connector: { connect: (request, signal) => link.connector.connect(request, signal) },
      migrate: { clock, verify: true, policy: roundCap(3, 'switchover') },
      receive: { clock },
    });
    await toy.migration.result;
    if (incoming === undefined) continue;
    await (incoming as Toy['incoming']).result;
    expect(lost).toBe(n - 2);
    expect(source.memory.firstDifference(second.memory)).toBeUndefined();
    expect([source.running, first.running, second.running]).toEqual([false, false, true]);
  }
  expect(lost).toBeGreaterThan(5);
});

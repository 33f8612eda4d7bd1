import { type MigratableDevice, roundCap } from '@godwit/core';
import { FaultyDevice, ToyVm, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { BLOCKS, expectMoved, filledVm, PAGE, start, type Toy } from './toy-migration.js';

const MIB = 2 ** 20;

async function write({ source, clock }: Toy, ms: number): Promise<void> {
  for (let at = 0; at < ms; at += 5) {
    await clock.sleep(5);
    if (source.running) source.write(0, (at % 64) * PAGE, Uint8Array.of(at));
  }
}

/** A device of 8 MiB, of which a quarter comes while the guest runs; loading takes `msPerMib`. */
function iterative(clock: VirtualClock, msPerMib: number): MigratableDevice {
  let offered = 2;
  return {
    id: 'gpu',
    version: 1,
    stateBytes: () => 6 * MIB,
    async *precopy() {
      for (; offered > 0; offered--) yield new Uint8Array(MIB);
    },
    async *save() {
      for (let i = 0; i < 6; i++) yield new Uint8Array(MIB);
    },
    async load(state) {
      for await (const piece of state) await clock.sleep((piece.length / MIB) * msPerMib);
    },
  };
}

function move(clock: VirtualClock, source: MigratableDevice[], destination: MigratableDevice[], vm = {}) {
  const from = filledVm();
  from.devices = source;
  const toy = start({
    clock,
    source: from,
    destination: Object.assign(new ToyVm(BLOCKS, { running: false, devices: destination }), vm),
    link: { latencyMs: 1, bytesPerSecond: 1e9 },
    migrate: { policy: roundCap(10, 'switchover'), downtimeLimitMs: 1000 },
  });
  void write(toy, 3000);
  return toy;
}

describe('loading, as the destination predicts it', () => {
  test('is learned from what came while the guest runs', async () => {
    const clock = new VirtualClock();
    const toy = move(clock, [iterative(clock, 25)], [iterative(clock, 25)]);
    expectMoved(toy, await toy.settled());
    const { loadMs } = (await toy.migration.result).downtime;
    expect(loadMs.actualMs).toBeCloseTo(150, 0);
    expect(Math.abs(loadMs.predictedMs - 150)).toBeLessThan(20);
    expect(loadMs.rangeMs[0]).toBeLessThan(150);
    expect(loadMs.rangeMs[1]).toBeGreaterThan(150);
    expect(loadMs.rangeMs[1]).toBeLessThan(500);
  });

  test('is what devices and the VM say of it', async () => {
    const clock = new VirtualClock();
    const device = () =>
      Object.assign(iterative(clock, 40), { expectedLoadMs: (bytes: number) => 5 + (bytes / MIB) * 40 });
    const toy = move(clock, [device()], [device()], {
      expectedResumeMs: () => 30,
      onResume: () => clock.sleep(30),
    });
    expectMoved(toy, await toy.settled());
    const { loadMs, resumeMs } = (await toy.migration.result).downtime;
    expect(Math.abs(loadMs.predictedMs - loadMs.actualMs)).toBeLessThan(10);
    expect(resumeMs).toMatchObject({ predictedMs: 30, rangeMs: [15, 75] });
    expect(resumeMs.actualMs).toBeCloseTo(30, 0);
  });

  test('values that cannot be are told once, with their name, and are not used', async () => {
    const clock = new VirtualClock();
    const bad = Object.assign(new FaultyDevice('disk'), { expectedLoadMs: () => Number.NaN });
    const thrower = Object.assign(new FaultyDevice('net'), {
      expectedLoadMs: () => {
        throw new Error('no idea');
      },
    });
    const state = new Uint8Array(10);
    const toy = move(clock, [new FaultyDevice('disk', state), new FaultyDevice('net', state)], [bad, thrower], {
      expectedResumeMs: () => -1,
    });
    expectMoved(toy, await toy.settled());
    const told = toy.incomingEvents.flatMap((event) => (event.type === 'warning' ? [event.message] : []));
    expect(told).toHaveLength(3);
    for (const what of [
      'device "disk": expectedLoadMs() says NaN',
      'device "net": expectedLoadMs() failed',
      'expectedResumeMs() says -1',
    ]) {
      expect(told.filter((message) => message.includes(what))).toHaveLength(1);
    }
  });
});

describe('what devices say at the source', () => {
  test('sizes and times that cannot be are told once, with their name, and assumed', async () => {
    const clock = new VirtualClock();
    const sizes = [10, Number.NaN, -5, 2 ** 60];
    let asked = 0;
    const device = Object.assign(new FaultyDevice('gpu', new Uint8Array(10)), {
      stateBytes: () => sizes[Math.min(asked++, 3)] as number,
      expectedSaveMs: () => Number.POSITIVE_INFINITY,
    });
    const toy = move(clock, [device], [new FaultyDevice('gpu')]);
    expectMoved(toy, await toy.settled());
    const told = toy.events.flatMap((event) => (event.type === 'warning' ? [event.message] : []));
    expect(told.map((message) => message.replace(/, which.*; /, '; '))).toEqual([
      'device "gpu": expectedSaveMs() says Infinity; a guess is used',
      'device "gpu": stateBytes() says NaN; 10 are assumed',
      'device "gpu": stateBytes() says -5; 10 are assumed',
      'device "gpu": stateBytes() says 1152921504606847000; 10 are assumed',
    ]);
  });

  test('a save that takes its time is predicted by the device that knows', async () => {
    const clock = new VirtualClock();
    const slow: MigratableDevice = {
      id: 'gpu',
      version: 1,
      expectedSaveMs: () => 120,
      async *save() {
        await clock.sleep(120);
        yield Uint8Array.of(1);
      },
      async load(state) {
        for await (const _ of state);
      },
    };
    const toy = move(clock, [slow], [slow]);
    expectMoved(toy, await toy.settled());
    const { deviceMs } = (await toy.migration.result).downtime;
    expect(Math.abs(deviceMs.predictedMs - deviceMs.actualMs)).toBeLessThan(5);
  });
});

test('an attempt that was given up teaches its terms, within an interval that has the next one', async () => {
  const clock = new VirtualClock();
  let pauses = 0;
  const source = filledVm();
  source.onPause = () => clock.sleep(60);
  source.devices = [
    Object.assign(new FaultyDevice('gpu', new Uint8Array(10)), {
      async *save() {
        await clock.sleep(++pauses === 1 ? 5000 : 90);
        yield new Uint8Array(10);
      },
    }),
  ];
  const toy = start({
    clock,
    source,
    destination: new ToyVm(BLOCKS, { running: false, devices: [new FaultyDevice('gpu')] }),
    link: { latencyMs: 1 },
  });
  void write(toy, 20_000);
  expectMoved(toy, await toy.settled());
  const { attempts, downtime } = await toy.migration.result;
  expect(attempts.map(({ term }) => term)).toEqual(['deviceMs']);
  expect(downtime.pauseMs).toMatchObject({ predictedMs: 60, actualMs: 60 });
  expect(downtime.deviceMs.rangeMs[0]).toBeLessThanOrEqual(90);
  expect(downtime.deviceMs.rangeMs[1]).toBeGreaterThanOrEqual(90);
});

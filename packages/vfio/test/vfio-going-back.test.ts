import { GodwitError, type MigratableDevice, type MigratableVm } from '@godwit/core';
import type { IoctlArgument } from '@godwit/linux/unstable';
import type { VfioMigratableDevice } from '@godwit/vfio';
import { type DeviceModel, type DeviceModelOptions, VfioModel } from '@godwit/vfio/testing';
import { type MigrationState, STATE_VERSION } from '@godwit/vfio/unstable';
import { afterEach, describe, expect, test } from '@jest/globals';
import { errorOf } from './error-of.js';
import { closeSides, type ModelSide, modelSide, STATE } from './model-side.js';
import { PushedStream } from './pushed-stream.js';

/** What a stop-and-copy that is given up leaves behind, at either end: the contract of the engine, called as it calls it. */

afterEach(closeSides);

const LATER = STATE.map((byte) => 255 - byte);

interface Ends {
  readonly source: ModelSide;
  readonly destination: ModelSide;
  /** The source, as the engine sees it. */
  readonly vm: MigratableVm;
  readonly from: VfioMigratableDevice;
  readonly to: VfioMigratableDevice;
  readonly model: DeviceModel;
  readonly there: DeviceModel;
}

function ends(options: DeviceModelOptions): Ends {
  const source = modelSide([options], { running: true });
  const destination = modelSide([options], { running: false });
  const [model, there] = [source, destination].map(({ models }) => models[0] as DeviceModel) as [
    DeviceModel,
    DeviceModel,
  ];
  model.memory = STATE;
  const [from, to] = [source, destination].map(({ set }) => set.devices[0] as VfioMigratableDevice) as [
    VfioMigratableDevice,
    VfioMigratableDevice,
  ];
  return { source, destination, vm: source.set.attachTo(source.vm), from, to, model, there };
}

/** What a round sends of a device while the guest runs; nothing for a device that only stops. */
async function round(device: VfioMigratableDevice, into: PushedStream): Promise<void> {
  if (device.precopy !== undefined) await into.pushAll(device.precopy());
}

/** A whole stop-and-copy, after which the destination has the device's state. */
async function stopAndCopy({ vm, from }: Ends, stream: PushedStream, loading: Promise<void>): Promise<void> {
  await vm.pause();
  await stream.pushAll(from.save());
  stream.end();
  await loading;
}

const KINDS: readonly (readonly [string, DeviceModelOptions, boolean])[] = [
  ['pre-copy and P2P', { migrationFlags: 7 }, true],
  ['pre-copy only', { migrationFlags: 5 }, true],
  ['P2P only', { migrationFlags: 3 }, false],
  ['neither', { migrationFlags: 1 }, false],
];

describe.each(KINDS)('a device with %s', (_, options, streams) => {
  test('given up before anything is saved: it streams on where it was, and nothing is void', async () => {
    const both = ends(options);
    const { vm, from, to, model, there } = both;
    const stream = new PushedStream();
    const loading = to.load(stream, STATE_VERSION);
    await round(from, stream);
    await vm.pause();
    await vm.resume();
    expect(model.visited).not.toContain('STOP_COPY');
    expect(model.state).toBe(streams ? 'PRE_COPY' : 'RUNNING');
    model.memory = LATER;
    await round(from, stream);
    await stopAndCopy(both, stream, loading);
    expect([there.memory, there.resets, model.resets]).toEqual([LATER, 0, 0]);
    await from.release();
    expect(model.state).toBe('STOP');
  });

  test('given up in the middle of its save: it runs, and its whole state goes into the destination anew', async () => {
    const both = ends(options);
    const { vm, from, to, model, there } = both;
    expect(from.backVoids).toBe(streams ? 'everything' : 'stop-state');
    const first = new PushedStream();
    // The engine calls `load` when the first piece of a device that streams has come, and else when all is there.
    const failed = streams ? errorOf(() => to.load(first, STATE_VERSION)) : undefined;
    await round(from, first);
    await vm.pause();
    const giveUp = new AbortController();
    const pieces = from.save(giveUp.signal);
    await pieces.next();
    await pieces.next();
    giveUp.abort();
    expect(await pieces.next()).toEqual({ done: true, value: undefined });
    await vm.resume();
    expect([model.state, model.resets]).toEqual(['RUNNING', 0]);

    first.fail(new GodwitError('GODWIT_LINK_LOST', 'given up'));
    expect((await failed)?.message).toBe(streams ? 'given up' : undefined);
    if (streams) {
      await to.reset();
      await from.restart();
    }
    expect(there.state).toBe('RUNNING');
    model.memory = LATER;
    const second = new PushedStream();
    const loading = to.load(second, STATE_VERSION);
    await round(from, second);
    await stopAndCopy(both, second, loading);
    expect(there.memory).toEqual(LATER);
    await from.release();
  });

  test('given up when the destination had loaded all of it: it is loaded again', async () => {
    const both = ends(options);
    const { vm, from, to, model, there } = both;
    const first = new PushedStream();
    const loaded = to.load(first, STATE_VERSION);
    await round(from, first);
    await stopAndCopy(both, first, loaded);
    expect([there.state, there.memory]).toEqual(['STOP', STATE]);
    await vm.resume();
    expect(model.state).toBe('RUNNING');
    await to.reset();
    await from.restart();
    // Complete state ends RESUMING by itself.
    expect(there.resets).toBe(0);
    model.memory = LATER;
    const second = new PushedStream();
    const loading = to.load(second, STATE_VERSION);
    await round(from, second);
    await stopAndCopy(both, second, loading);
    expect([there.state, there.memory]).toEqual(['STOP', LATER]);
    await from.release();
  });

  test('a guest that its user has paused stays paused, however often it is given up', async () => {
    const both = ends(options);
    const { vm, from, to, model, there } = both;
    await vm.pause();
    model.visited.length = 0;
    for (let attempt = 1; attempt <= 2; attempt++) {
      const stream = new PushedStream();
      const failed = errorOf(() => to.load(stream, STATE_VERSION));
      await round(from, stream);
      await vm.pause();
      const giveUp = new AbortController();
      const pieces = from.save(giveUp.signal);
      stream.push((await pieces.next()).value as Uint8Array);
      giveUp.abort();
      await pieces.return(undefined);
      stream.fail(new GodwitError('GODWIT_LINK_LOST', 'given up'));
      await failed;
      await to.reset();
      // The engine tells it where the destination's device was reset.
      if (streams) await from.restart();
    }
    const stream = new PushedStream();
    const loading = to.load(stream, STATE_VERSION);
    await round(from, stream);
    await stopAndCopy(both, stream, loading);
    expect(there.memory).toEqual(STATE);
    if ((options.migrationFlags ?? 0) & 2) expect(model.visited).not.toContain('RUNNING');
    if ((options.migrationFlags ?? 0) & 2) expect(model.visited).not.toContain('PRE_COPY');
    await from.release();
  });
});

test.each([
  ['runs again', (vm: MigratableVm) => vm.resume()],
  ['stays paused', async () => {}],
])('a stream that has ended is not begun anew behind the engine’s back, when the guest %s', async (_, goBack) => {
  const { vm, from } = ends({});
  await round(from, new PushedStream());
  await vm.pause();
  await from.save().next();
  await goBack(vm);
  const expected = { code: 'GODWIT_INVALID_STATE', message: expect.stringMatching(/d0 must be told to restart/) };
  await expect(from.save().next()).rejects.toMatchObject(expected);
  await vm.resume();
  await expect(from.precopy?.()[Symbol.asyncIterator]().next()).rejects.toMatchObject(expected);
  await from.restart();
  await round(from, new PushedStream());
  await from.release();
});

test('says why the guest must not be paused yet, and no longer', async () => {
  const { vm, from, model } = ends({});
  expect(from.switchoverBlocker()).toBe('d0 has not begun to stream its state');
  const pieces = from.precopy?.()[Symbol.asyncIterator]();
  await pieces?.next();
  await pieces?.next();
  // The model gives seven bytes at a time, of the eight that it has at first.
  expect(from.switchoverBlocker()).toBe('d0 still has 1 initial bytes of its state to stream');
  while ((await pieces?.next())?.done === false);
  expect(from.switchoverBlocker()).toBeUndefined();
  await vm.pause();
  expect(from.switchoverBlocker()).toBeUndefined();
  await vm.resume();
  await from.restart();
  expect(from.switchoverBlocker()).toBe('d0 has not begun to stream its state');
  expect(from.migrationBlocker()).toBeUndefined();
  model.state = 'ERROR';
  expect(from.migrationBlocker()).toBe('d0 is in ERROR, which only a reset of it ends');
  model.state = 'RUNNING';
});

test('a device that only stops never stands in the way', async () => {
  const { from } = ends({ migrationFlags: 3 });
  expect(from.switchoverBlocker()).toBeUndefined();
  expect([...from.loadWrites()]).toEqual([]);
});

test.each([
  ['its next piece', (stream: PushedStream) => stream.push(Uint8Array.of(1))],
  ['its end', (stream: PushedStream) => stream.end()],
])('a reset ends the load under way, which notices with %s, and not the one after it', async (_, goOn) => {
  const { from, to, there } = ends({});
  const [first, second] = [new PushedStream(), new PushedStream()];
  const old = errorOf(() => to.load(first, STATE_VERSION));
  await round(from, first);
  await first.taken();
  await to.reset();
  expect([there.state, there.resets]).toEqual(['RUNNING', 1]);
  await from.restart();
  const loading = to.load(second, STATE_VERSION);
  await round(from, second);
  await second.taken();
  goOn(first);
  expect((await old).code).toBe('GODWIT_CANCELLED');
  await second.pushAll(from.save());
  second.end();
  await loading;
  expect([there.state, there.memory, there.resets]).toEqual(['STOP', STATE, 1]);
  await from.release();
});

test('the end of a stream that is void takes the device nowhere', async () => {
  const { from, to, there } = ends({});
  const stream = new PushedStream();
  const loading = errorOf(() => to.load(stream, STATE_VERSION));
  await round(from, stream);
  await stream.pushAll(from.save());
  await stream.taken();
  await to.reset();
  stream.end();
  expect((await loading).code).toBe('GODWIT_CANCELLED');
  expect([there.state, there.resets]).toEqual(['RUNNING', 1]);
  await from.release();
});

test('a destination that was restarted while the user’s guest is paused: the device stands as before', async () => {
  const { vm, from, model } = ends({});
  await vm.pause();
  await round(from, new PushedStream());
  expect(model.state).toBe('PRE_COPY_P2P');
  await from.restart();
  expect(model.state).toBe('RUNNING_P2P');
  expect(model.visited).not.toContain('RUNNING');
});

/** A kernel whose device calls wait for a gate, and whose reads do when they are told to. */
class SlowKernel extends VfioModel {
  gate: Promise<void> = Promise.resolve();
  readsWait = false;

  override async ioctlAsync(fd: number, request: number, argument: IoctlArgument = 0): Promise<number> {
    await this.gate;
    return super.ioctlAsync(fd, request, argument);
  }

  override async read(fd: number, buffer: Uint8Array): Promise<number> {
    if (this.readsWait) {
      await new Promise<void>((resolve) => {
        for (const model of this.devices.values()) model.onState = () => resolve();
      });
    }
    return super.read(fd, buffer);
  }
}

/** Opens when told to. */
function gate(): { readonly closed: Promise<void>; readonly open: () => void } {
  let open = (): void => undefined;
  const closed = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { closed, open };
}

test('a reset while the device is being taken to RESUMING leaves no session open', async () => {
  const destination = modelSide([{}], { running: false, Kernel: SlowKernel });
  const to = destination.set.devices[0] as VfioMigratableDevice;
  const { from } = ends({});
  const stream = new PushedStream();
  const { closed, open } = gate();
  (destination.kernel as SlowKernel).gate = closed;
  const loading = errorOf(() => to.load(stream, STATE_VERSION));
  await round(from, stream);
  await new Promise(setImmediate);
  const resetting = to.reset();
  open();
  await resetting;
  expect([destination.models[0]?.state, destination.models[0]?.resets]).toEqual(['RUNNING', 1]);
  stream.end();
  expect((await loading).code).toBe('GODWIT_CANCELLED');
  await from.release();
});

test('a save that waits for its device ends when it is given up, and the guest runs again', async () => {
  const source = modelSide([{}], { running: true, Kernel: SlowKernel });
  const kernel = source.kernel as SlowKernel;
  const vm = source.set.attachTo(source.vm);
  const from = source.set.devices[0] as VfioMigratableDevice;
  await round(from, new PushedStream());
  await vm.pause();
  const giveUp = new AbortController();
  const pieces = from.save(giveUp.signal);
  kernel.readsWait = true;
  const next = pieces.next();
  await new Promise(setImmediate);
  giveUp.abort();
  expect((await next).done).toBe(true);
  await vm.resume();
  expect([source.models[0]?.state, source.models[0]?.resets, source.vm.running]).toEqual(['RUNNING', 0, true]);
});

test('a save that is given up before its turn leaves the device alone, and a device behind it too', async () => {
  const source = modelSide([{}], { running: true, Kernel: SlowKernel });
  const saved: string[] = [];
  const chip: MigratableDevice = {
    id: 'chip',
    version: 1,
    async *save() {
      saved.push('chip');
      yield Uint8Array.of(1);
    },
    load: async () => {},
  };
  source.vm.devices = [chip];
  const vm = source.set.attachTo(source.vm);
  const from = source.set.devices[0] as VfioMigratableDevice;
  const { closed, open } = gate();
  (source.kernel as SlowKernel).gate = closed;
  const holding = source.set.holdBack();
  const giveUp = new AbortController();
  const own = from.save(giveUp.signal).next();
  const others = vm.devices[0]?.save(giveUp.signal)[Symbol.asyncIterator]().next();
  giveUp.abort();
  open();
  await holding;
  expect([(await own).done, (await others)?.done, saved]).toEqual([true, true, []]);
  expect(source.models[0]?.visited).not.toContain('STOP_COPY');
  await vm.resume();
});

test('given up while all devices stop: they run again together, and none is reset', async () => {
  const three = [{ migrationFlags: 7 }, { migrationFlags: 3 }, { migrationFlags: 7 }];
  const source = modelSide(three, { running: true, Kernel: SlowKernel });
  const kernel = source.kernel as SlowKernel;
  const vm = source.set.attachTo(source.vm);
  const stands = new Set<MigrationState>(['STOP', 'STOP_COPY']);
  const reaches = new Set<MigrationState>(['RUNNING', 'PRE_COPY']);
  const together: string[] = [];
  for (const model of source.models) {
    model.onState = () => {
      const states = source.models.map(({ state }) => state);
      if (states.some((state) => stands.has(state)) && states.some((state) => reaches.has(state))) {
        together.push(states.join());
      }
    };
  }
  for (const device of source.set.devices) await round(device, new PushedStream());
  for (let turns = 0; turns < 12; turns++) {
    await vm.pause();
    const giveUp = new AbortController();
    const { closed, open } = gate();
    kernel.gate = closed;
    const saves = vm.devices.map(async (device) => {
      for await (const _ of device.save(giveUp.signal));
    });
    for (let turn = 0; turn < turns; turn++) await Promise.resolve();
    giveUp.abort();
    const resumed = vm.resume();
    open();
    await Promise.all([...saves, resumed]);
    expect(source.models.map(({ state, resets }) => `${state} ${resets}`)).toEqual(
      source.models.map(({ state }) => (state === 'PRE_COPY' ? 'PRE_COPY 0' : 'RUNNING 0')),
    );
    for (const device of source.set.devices) {
      await device.restart();
      await round(device, new PushedStream());
    }
  }
  expect(together).toEqual([]);
  for (const device of source.set.devices) await device.release();
});

test('all devices stand still before anything of the VM is saved: they could still raise an interrupt', async () => {
  const source = modelSide([{}, { migrationFlags: 3 }], { running: true });
  const seen: string[] = [];
  const chip: MigratableDevice = {
    id: 'chip',
    version: 1,
    async *save() {
      seen.push(...source.models.map(({ state }) => state));
      yield Uint8Array.of(1);
    },
    load: async () => {},
  };
  source.vm.devices = [chip];
  const vm = source.set.attachTo(source.vm);
  expect(vm.devices.map(({ id, precopy }) => [id, precopy !== undefined])).toEqual([
    ['chip', false],
    ['d0', true],
    ['d1', false],
  ]);
  await vm.pause();
  expect(source.models.map(({ state }) => state)).toEqual(['RUNNING_P2P', 'RUNNING_P2P']);
  for await (const _ of vm.devices[0]?.save() ?? []);
  expect(seen).toEqual(['STOP', 'STOP']);
  await vm.resume();
  expect(source.models.map(({ state }) => state)).toEqual(['RUNNING', 'RUNNING']);
});

test('a pause that is given up before the devices were held back leaves them as they were', async () => {
  const { vm, source, model } = ends({});
  const giveUp = new AbortController();
  source.vm.onPause = () => giveUp.abort();
  await vm.pause(giveUp.signal);
  expect(model.visited).toEqual([]);
  await vm.resume();
  expect([model.state, source.vm.running]).toEqual(['RUNNING', true]);
});

test('what a VM can tell goes through, and what it cannot is not there', async () => {
  const source = modelSide([{}], { running: true });
  const plain: MigratableVm = {
    memory: source.vm.memory,
    trackers: [],
    devices: [],
    pause: () => source.vm.pause(),
    resume: () => source.vm.resume(),
  };
  expect(Object.keys(source.set.attachTo(plain)).sort()).toEqual(
    ['abandon', 'devices', 'memory', 'pause', 'resume', 'trackers'].sort(),
  );
  const asked: string[] = [];
  const talkative = source.set.attachTo(
    {
      ...plain,
      runState: () => 'paused',
      prepared: async () => void asked.push('prepared'),
      throttle: (fraction, { longestMs }) => void asked.push(`throttle ${fraction}, ${longestMs}`),
      vcpuWrites: () => [1, 2],
    },
    source.vm.trackers,
  );
  expect(talkative.runState?.()).toBe('paused');
  await talkative.prepared?.();
  talkative.throttle?.(0.5, { longestMs: 300 });
  expect(asked).toEqual(['prepared', 'throttle 0.5, 300']);
  expect(talkative.vcpuWrites?.()).toEqual([1, 2]);
  expect(talkative.trackers).toEqual(source.vm.trackers);
});

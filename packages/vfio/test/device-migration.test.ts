import { GodwitError, type MigrateOptions, type MigrationEvent, migrate, receive, roundCap } from '@godwit/core';
import { memoryLink, VirtualClock } from '@godwit/core/testing';
import { Errno, type IoctlArgument } from '@godwit/linux/unstable';
import { Type1Container, VfioDevice, VfioGroup, VfioMigratableDevice } from '@godwit/vfio';
import { type DeviceModel, type DeviceModelOptions, VfioModel } from '@godwit/vfio/testing';
import { DeviceFeature, DeviceMigration, type MigrationState } from '@godwit/vfio/unstable';
import { afterEach, describe, expect, test } from '@jest/globals';
import { errorOf } from './error-of.js';
import { closeSides, type ModelSide, modelSide, STATE } from './model-side.js';

/** What a migration of devices owes beyond moving their state: reasons that are said beforehand, sizes, readiness, parallel states. */

afterEach(closeSides);

const GIB = 2 ** 30;

async function move(
  source: ModelSide,
  destination: ModelSide,
  options: MigrateOptions = {},
  clock = new VirtualClock(),
) {
  const link = memoryLink({ clock, bytesPerSecond: 1e6 });
  const incoming = receive(link.listener, { prepare: () => destination.set.attachTo(destination.vm), clock });
  const migration = migrate(source.set.attachTo(source.vm), link.connector, { clock, ...options });
  const events: MigrationEvent[] = [];
  migration.subscribe((event) => events.push(event));
  const [sent] = await Promise.allSettled([migration.result]);
  // After a dry run it waits for the migration itself.
  if (sent?.status === 'rejected' || options.dryRun === true) incoming.cancel();
  await incoming.result.catch(() => {});
  return { sent, events };
}

function pair(devices: readonly DeviceModelOptions[], Kernel = VfioModel) {
  const source = modelSide(devices, { running: true, Kernel });
  for (const model of source.models) model.memory = STATE;
  return { source, destination: modelSide(devices, { running: false, Kernel }) };
}

describe('a device that cannot hold back peer-to-peer DMA', () => {
  const BESIDE = [{ migrationFlags: 5 }, { migrationFlags: 7 }, { migrationFlags: 1 }];

  test('is not migrated beside others, which a dry run says, with each of them', async () => {
    const { source } = pair(BESIDE);
    const { sent, events } = await move(source, modelSide([{}, {}, {}], { running: false }), { dryRun: true });
    expect(sent).toMatchObject({ reason: { code: 'GODWIT_BLOCKED' } });
    const report = events.find((event) => event.type === 'dry-run')?.report;
    const why = (id: string, others: string) =>
      `device "${id}": ${id} cannot hold back peer-to-peer DMA (it lacks VFIO_MIGRATION_P2P), so it can only be migrated alone: unplug it, or ${others}`;
    expect(report?.blockers).toEqual([why('d0', 'd1 and d2'), why('d2', 'd0 and d1')]);
  });

  test('nor stopped with them: none is touched', async () => {
    const { source } = pair(BESIDE);
    for (const stop of [() => source.set.holdBack(), () => source.set.pause()]) {
      const error = await errorOf(stop);
      expect([error.code, error.message]).toEqual([
        'GODWIT_BLOCKED',
        expect.stringMatching(/^d0 cannot .*; d2 cannot /),
      ]);
    }
    expect(source.models.flatMap(({ visited }) => visited)).toEqual([]);
  });

  test('is refused where it arrives beside others, too', async () => {
    const source = modelSide([{}, {}], { running: true });
    const destination = modelSide([{}, { migrationFlags: 5 }], { running: false });
    for (const dryRun of [true, false]) {
      const { sent } = await move(source, destination, { dryRun });
      expect(sent).toMatchObject({ reason: { code: 'GODWIT_BLOCKED', remote: true } });
      expect(String((sent as PromiseRejectedResult).reason)).toMatch(/d1 cannot hold back peer-to-peer DMA/);
    }
    expect(source.vm.running).toBe(true);
  });

  test('nor beside those of another set', () => {
    const { source, destination } = pair([{ migrationFlags: 1 }]);
    const vm = source.set.attachTo(source.vm);
    expect(() => destination.set.attachTo(vm)).toThrow(/has the VFIO device "d0" already: .* one VfioDeviceSet/);
  });

  test('moves alone', async () => {
    const { source, destination } = pair([{ migrationFlags: 1 }]);
    expect((await move(source, destination)).sent).toMatchObject({ status: 'fulfilled' });
  });
});

describe('a kernel that cannot tell the size of a state', () => {
  const NO_SIZE = { migrationFlags: 3, dataSizeFails: Errno.ENOTTY };

  test('100 GiB are assumed, and said to be', () => {
    const { source } = pair([NO_SIZE]);
    expect(source.set.devices[0]?.stateBytes()).toEqual({
      bytes: 100 * GIB,
      assumed: expect.stringMatching(/cannot tell how much state d0 has .* 107374182400 bytes are assumed/),
    });
  });

  test('a dry run says it, and the destination does not refuse what nobody knows', async () => {
    const { source, destination } = pair([NO_SIZE]);
    const { events } = await move(source, destination, { dryRun: true });
    const report = events.find((event) => event.type === 'dry-run')?.report;
    expect(report?.devices).toEqual([
      { id: 'd0', version: 2, stateBytes: 100 * GIB, assumed: expect.stringMatching(/assumedStateBytes/) },
    ]);
    expect(report?.maximumDeviceState).toBeLessThan(100 * GIB);
  });

  test('the downtime that this predicts keeps the guest running, and the migration says why', async () => {
    const { source, destination } = pair([NO_SIZE]);
    // So that the link's rate is learned.
    source.vm.memory.blocks[0]?.view(0, 8 * 4096).forEach((_, i, ram) => {
      ram[i] = i * 7 + (i >> 8);
    });
    const { sent, events } = await move(source, destination, { policy: roundCap(3, 'abort') });
    expect(sent).toMatchObject({ reason: { code: 'GODWIT_NOT_CONVERGING' } });
    expect(events.find((event) => event.type === 'warning')?.message).toMatch(/^device "d0": the kernel cannot tell/);
    expect(source.models[0]?.visited).toEqual([]);
    const rounds = events.flatMap((event) => (event.type === 'round' ? [event.round.prediction.deviceMs] : []));
    expect(rounds.length).toBeGreaterThan(1);
    expect(Math.min(...rounds)).toBeGreaterThan(100_000);
  });

  test('an error of the driver’s is not "unknown": it is that device’s', async () => {
    const { source, destination } = pair([{ dataSizeFails: Errno.EBUSY }]);
    expect(await errorOf(() => source.set.devices[0]?.stateBytes())).toMatchObject({
      code: 'GODWIT_DEVICE_FAILED',
      message: 'VFIO_DEVICE_FEATURE_MIG_DATA_SIZE on d0 failed: EBUSY (resource busy or locked)',
    });
    const { sent } = await move(source, destination);
    expect(sent).toMatchObject({ reason: { code: 'GODWIT_DEVICE_FAILED' } });
  });
});

describe('initial bytes', () => {
  test('of a device that is given new ones: the guest is not paused before they have gone', async () => {
    const { source, destination } = pair([{}]);
    const [model] = source.models as [DeviceModel];
    const [device] = source.set.devices as [VfioMigratableDevice];
    for await (const _ of device.precopy?.() ?? []);
    expect(device.switchoverBlocker()).toBeUndefined();
    model.reinitialize(20);
    expect(device.switchoverBlocker()).toBe('d0 still has 20 new initial bytes of its state to stream');
    for await (const _ of device.precopy?.() ?? []);
    expect(device.switchoverBlocker()).toBeUndefined();
    await device.restart();
    expect((await move(source, destination)).sent).toMatchObject({ status: 'fulfilled' });
    expect(destination.models[0]?.memory).toEqual(STATE);
  });

  test('that come while the guest is being paused: it runs on, and they go first', async () => {
    const { source, destination } = pair([{}, {}]);
    const [model] = source.models as [DeviceModel];
    let given = 0;
    model.onState = (state) => {
      if (state === 'PRE_COPY_P2P' && given++ === 0) model.reinitialize(16);
    };
    const { sent, events } = await move(source, destination);
    expect(sent).toMatchObject({ status: 'fulfilled' });
    const attempts = events.flatMap((event) => (event.type === 'went-back' ? [event.reason.message] : []));
    expect(attempts).toEqual([expect.stringMatching(/^d0 has been given 16 new initial bytes .* the guest runs on/)]);
    expect(destination.models.map(({ memory }) => memory)).toEqual([STATE, STATE]);
    expect(source.models.flatMap(({ visited }) => visited.filter((state) => state === 'STOP_COPY'))).toHaveLength(2);
  });

  test.each([true, false])('flags count only where the kernel fills them in (%s)', async (precopyInfoV2) => {
    const { source } = pair([{ precopyInfoV2 }]);
    const [model] = source.models as [DeviceModel];
    const [device] = source.set.devices as [VfioMigratableDevice];
    const fd = (await device.migration.moveTo('PRE_COPY')) as number;
    const info = { initialBytes: 8, dirtyBytes: 0, reinitialized: false };
    expect(device.migration.precopyInfo(fd)).toEqual(info);
    model.reinitialize(4);
    expect(device.migration.precopyInfo(fd)).toEqual({ ...info, initialBytes: 12, reinitialized: precopyInfoV2 });
    expect(device.migration.precopyInfo(fd)).toEqual({ ...info, initialBytes: 12 });
    source.kernel.close(fd);
  });

  test('the guest runs until the destination has taken in everything that was streamed', async () => {
    const { source, destination } = pair([{}], HeldWrites);
    const kernel = destination.kernel as HeldWrites;
    const clock = new VirtualClock();
    kernel.hold();
    const moving = move(source, destination, {}, clock);
    await clock.sleep(5_000);
    expect([source.vm.running, source.models[0]?.visited]).toEqual([true, ['PRE_COPY']]);
    kernel.release();
    expect((await moving).sent).toMatchObject({ status: 'fulfilled' });
    expect(destination.models[0]?.memory).toEqual(STATE);
  });
});

test.each([
  [7, ['STOP', 'RUNNING_P2P', 'RUNNING']],
  [5, ['STOP', 'RUNNING']],
  [3, ['STOP', 'RUNNING_P2P', 'RUNNING']],
  [1, ['STOP', 'RUNNING']],
] as const)('out of STOP_COPY there is one way (flags %d)', async (migrationFlags, way: readonly MigrationState[]) => {
  const { source } = pair([{ migrationFlags }]);
  const [model] = source.models as [DeviceModel];
  const vm = source.set.attachTo(source.vm);
  const [device] = source.set.devices as [VfioMigratableDevice];
  for await (const _ of device.precopy?.() ?? []);
  await vm.pause();
  await vm.devices[0]?.save()[Symbol.asyncIterator]().next();
  expect(model.state).toBe('STOP_COPY');
  model.visited.length = 0;
  await vm.resume();
  expect(model.visited).toEqual(way);
  await device.release();
});

describe('states of several devices', () => {
  test('are saved and loaded at the same time', async () => {
    const { source, destination } = pair([{}, { migrationFlags: 3 }, {}], Meeting);
    const [saving, loading] = [source, destination].map(({ kernel }) => kernel as Meeting) as [Meeting, Meeting];
    saving.await('read', 3, (model) => model.state === 'STOP_COPY');
    loading.await('state', 3, () => source.models.every(({ state }) => state === 'STOP_COPY'));
    expect((await move(source, destination)).sent).toMatchObject({ status: 'fulfilled' });
    expect([saving.met, loading.met]).toEqual([true, true]);
    expect(destination.models.map(({ memory }) => memory)).toEqual([STATE, STATE, STATE]);
  });

  test('one that fails ends the others, and the guest runs on with all of its devices', async () => {
    const { source, destination } = pair([{}, {}, {}]);
    const read = source.kernel.read.bind(source.kernel);
    let failures = 1;
    source.kernel.read = async (fd, buffer) => {
      if (source.models[1]?.state === 'STOP_COPY' && failures-- > 0) return -Errno.EBUSY;
      return read(fd, buffer);
    };
    const { sent } = await move(source, destination);
    expect(sent).toMatchObject({ reason: { code: 'GODWIT_DEVICE_FAILED' } });
    expect(source.models.map(({ state, resets }) => `${state} ${resets}`)).toEqual(Array(3).fill('RUNNING 0'));
    expect(source.vm.running).toBe(true);
  });
});

test('every call that a signal interrupts is made again', async () => {
  const { source, destination } = pair([{}, { migrationFlags: 3 }], Interrupted);
  const { sent } = await move(source, destination);
  expect(sent).toMatchObject({ status: 'fulfilled' });
  expect(destination.models.map(({ memory }) => memory)).toEqual([STATE, STATE]);
});

test('a device is opened, its state changed, and closed again, with all that may take its time on pool threads', async () => {
  const kernel = new VfioModel([{ number: 1, devices: { d: {} } }]);
  const group = VfioGroup.open(1, kernel);
  const container = Type1Container.open([group], kernel);
  const onLoop: number[] = [];
  const ioctl = kernel.ioctl.bind(kernel);
  const ioctlAsync = kernel.ioctlAsync.bind(kernel);
  let pooled = 0;
  kernel.ioctl = (fd, request, argument) => {
    if (pooled === 0) onLoop.push(request);
    return ioctl(fd, request, argument);
  };
  kernel.ioctlAsync = async (...call) => {
    pooled++;
    return ioctlAsync(...call).finally(() => pooled--);
  };
  const closed: number[] = [];
  Object.assign(kernel, {
    closeAsync: async (fd: number) => {
      closed.push(fd);
      kernel.close(fd);
    },
  });
  const device = await VfioDevice.openAsync(group, 'd', kernel);
  const migratable = new VfioMigratableDevice({ device, kind: 'mdev:model' });
  const { fd } = device;
  for await (const _ of migratable.precopy?.() ?? []);
  await migratable.stop();
  for await (const _ of migratable.save());
  await migratable.release();
  await device.reset();
  await device.closeAsync();
  expect(closed).toEqual([expect.any(Number), fd]);
  // Questions that a driver answers at once, and no change.
  const { VFIO_DEVICE_FEATURE, VFIO_MIG_GET_PRECOPY_INFO } = DeviceFeature;
  expect(new Set(onLoop)).toEqual(new Set([VFIO_DEVICE_FEATURE, VFIO_MIG_GET_PRECOPY_INFO]));
  expect(kernel.devices.get('d')?.visited).toEqual(['PRE_COPY', 'PRE_COPY_P2P', 'STOP_COPY', 'STOP', 'RUNNING']);
  expect(await errorOf(() => VfioDevice.openAsync(group, 'none', kernel))).toMatchObject({
    code: 'GODWIT_UNSUPPORTED',
  });
  container.close();
  group.close();
  expect(kernel.openDescriptors).toBe(0);
});

describe('closing a device', () => {
  test('twice closes it once, at once or on a pool thread, and no call is made on its number afterwards', async () => {
    for (const close of [(device: VfioDevice) => device.close(), (device: VfioDevice) => device.closeAsync()]) {
      const kernel = new VfioModel([{ number: 1, devices: { d: {} } }]);
      const closed: number[] = [];
      kernel.close = (fd) => void closed.push(fd);
      const asked: number[] = [];
      kernel.ioctl = (fd) => asked.push(fd);
      const device = VfioDevice.adopt(7, 'd', kernel);
      await close(device);
      await Promise.all([close(device), close(device)]);
      // An adopted one stays its owner's.
      expect(closed).toEqual([]);
      for (const call of [() => device.info(), () => device.reset(), () => new DeviceMigration(device)]) {
        expect(await errorOf(call)).toMatchObject({ code: 'GODWIT_INVALID_STATE', message: 'device d is closed' });
      }
      expect(asked).toEqual([]);
    }
    const { source } = pair([{}]);
    const device = source.set.devices[0]?.migration.device as VfioDevice;
    const before = source.kernel.openDescriptors;
    await Promise.all([device.closeAsync(), device.closeAsync()]);
    device.close();
    expect(source.kernel.openDescriptors).toBe(before - 1);
  });

  test('waits for the calls under way, and a session is closed once', async () => {
    const { source } = pair([{}], HeldCalls);
    const kernel = source.kernel as HeldCalls;
    const [device] = source.set.devices as [VfioMigratableDevice];
    for await (const _ of device.precopy?.() ?? []);
    const before = kernel.openDescriptors;
    kernel.hold();
    const releasing = device.release();
    await new Promise(setImmediate);
    const closing = device.migration.device.closeAsync();
    await new Promise(setImmediate);
    expect(kernel.openDescriptors).toBe(before);
    kernel.release();
    await Promise.all([releasing, closing, device.release().catch(() => {}), device.abandon().catch(() => {})]);
    expect(kernel.openDescriptors).toBe(before - 2);
    expect(GodwitError.is(await errorOf(() => device.migration.state()))).toBe(true);
  });
});

/** A gate that calls wait at while it is shut. */
class Held extends VfioModel {
  #gate: Promise<void> = Promise.resolve();
  #open: () => void = () => {};

  hold(): void {
    this.#gate = new Promise((resolve) => {
      this.#open = resolve;
    });
  }

  release(): void {
    this.#open();
  }

  protected get gate(): Promise<void> {
    return this.#gate;
  }
}

class HeldWrites extends Held {
  override async write(fd: number, buffer: Uint8Array): Promise<number> {
    await this.gate;
    return super.write(fd, buffer);
  }
}

class HeldCalls extends Held {
  override async ioctlAsync(fd: number, request: number, argument?: IoctlArgument): Promise<number> {
    await this.gate;
    return super.ioctlAsync(fd, request, argument);
  }
}

/** Calls of several devices that return only once so many are under way. */
class Meeting extends VfioModel {
  met = false;
  #what: 'read' | 'state' | undefined;
  #wanted = 0;
  #when: (model: DeviceModel) => boolean = () => false;
  #here = new Set<number>();
  #wake: () => void = () => {};
  readonly #meeting = new Promise<void>((resolve) => {
    this.#wake = resolve;
  });

  await(what: 'read' | 'state', wanted: number, when: (model: DeviceModel) => boolean): void {
    this.#what = what;
    this.#wanted = wanted;
    this.#when = when;
  }

  async #meet(what: 'read' | 'state', fd: number): Promise<void> {
    if (this.#what !== what || this.met || ![...this.devices.values()].every(this.#when)) return;
    this.#here.add(fd);
    if (this.#here.size < this.#wanted) {
      await this.#meeting;
      return;
    }
    this.met = true;
    this.#wake();
  }

  override async read(fd: number, buffer: Uint8Array): Promise<number> {
    await this.#meet('read', fd);
    return super.read(fd, buffer);
  }

  override async ioctlAsync(fd: number, request: number, argument?: IoctlArgument): Promise<number> {
    await this.#meet('state', fd);
    return super.ioctlAsync(fd, request, argument);
  }
}

/** Every call is interrupted at first, of groups and containers too. */
class Interrupted extends VfioModel {
  readonly #interrupted = new Set<string>();

  #interrupts(what: string): boolean {
    if (this.#interrupted.delete(what)) return false;
    this.#interrupted.add(what);
    return true;
  }

  override ioctl(fd: number, request: number, argument?: IoctlArgument): number {
    return this.#interrupts(`ioctl ${fd} ${request}`) ? -Errno.EINTR : super.ioctl(fd, request, argument);
  }

  override async ioctlAsync(fd: number, request: number, argument?: IoctlArgument): Promise<number> {
    return super.ioctlAsync(fd, request, argument);
  }

  override async read(fd: number, buffer: Uint8Array): Promise<number> {
    return this.#interrupts(`read ${fd}`) ? -Errno.EINTR : super.read(fd, buffer);
  }

  override async write(fd: number, buffer: Uint8Array): Promise<number> {
    return this.#interrupts(`write ${fd}`) ? -Errno.EINTR : super.write(fd, buffer);
  }
}

import { type GodwitError, type MigrateOptions, migrate, receive, roundCap } from '@godwit/core';
import { memoryLink, VirtualClock } from '@godwit/core/testing';
import { Type1Container, VfioDevice, VfioGroup, type VfioMigratableDevice } from '@godwit/vfio';
import { type DeviceModel, type DeviceModelOptions, deviceBytes, framedState, VfioModel } from '@godwit/vfio/testing';
import { DeviceMigration, STATE_VERSION } from '@godwit/vfio/unstable';
import { afterEach, describe, expect, test } from '@jest/globals';
import { errorOf } from './error-of.js';
import { closeSides, type ModelSide, modelSide, STATE } from './model-side.js';

afterEach(closeSides);

/** `mdev:model` */
const MODEL_KIND = [...new TextEncoder().encode('mdev:model')];

function side(devices: readonly DeviceModelOptions[], running: boolean, kind?: string): ModelSide {
  return modelSide(devices, { running, ...(kind === undefined ? {} : { kind }) });
}

async function move(source: ModelSide, destination: ModelSide, options: MigrateOptions = {}) {
  const clock = new VirtualClock();
  const link = memoryLink({ clock });
  const incoming = receive(link.listener, { prepare: () => destination.set.attachTo(destination.vm), clock });
  const migration = migrate(source.set.attachTo(source.vm), link.connector, { clock, ...options });
  incoming.subscribe({ error: () => {} });
  migration.subscribe({ error: () => {} });
  const [sent, received] = await Promise.allSettled([migration.result, incoming.result]);
  return { sent, received };
}

const KINDS: readonly (readonly [string, DeviceModelOptions])[] = [
  ['pre-copy and P2P', { migrationFlags: 7 }],
  ['pre-copy that ends with 0, as mtty does', { migrationFlags: 7, endsWithNoMessage: false }],
  ['pre-copy that promises more than it has', { migrationFlags: 7, precopySurplus: 100 }],
  ['the same, ending with 0', { migrationFlags: 7, precopySurplus: 100, endsWithNoMessage: false }],
  ['P2P only', { migrationFlags: 3 }],
  ['pre-copy only', { migrationFlags: 5 }],
  ['neither', { migrationFlags: 1 }],
];

describe.each(KINDS)('a device with %s', (_, options) => {
  test('moves, and runs at the destination with what it knew', async () => {
    const source = side([options], true);
    const destination = side([options], false);
    (source.models[0] as DeviceModel).memory = STATE;
    const { sent } = await move(source, destination);
    expect(sent).toMatchObject({ status: 'fulfilled' });
    const [there] = destination.models;
    expect(there?.memory).toEqual(STATE);
    expect(there?.state).toBe('RUNNING');
    // The guest is gone: the device no longer saves, and does not run.
    expect(source.models[0]?.state).toBe('STOP');
  });

  test('runs again at the source when the destination cannot load it', async () => {
    const source = side([options], true);
    const destination = side([options], false, 'mdev:another');
    (source.models[0] as DeviceModel).memory = STATE;
    const { sent } = await move(source, destination);
    const reason = (sent as PromiseRejectedResult).reason as GodwitError;
    expect(reason.message).toMatch(/kind "mdev:model", this is one of kind "mdev:another"/);
    expect(source.models[0]?.state).toBe('RUNNING');
    expect(source.models[0]?.memory).toEqual(STATE);
    expect(source.vm.running).toBe(true);
    expect(destination.models[0]?.resets).toBe(0);
  });

  test('can be moved again after a migration that gave up', async () => {
    const source = side([options], true);
    const destination = side([options], false);
    (source.models[0] as DeviceModel).memory = STATE;
    const gaveUp = await move(source, side([options], false), { policy: roundCap(1, 'abort') });
    expect(gaveUp.sent).toMatchObject({ reason: { code: 'GODWIT_NOT_CONVERGING' } });
    expect(source.models[0]?.state).toBe('RUNNING');
    expect((await move(source, destination)).sent).toMatchObject({ status: 'fulfilled' });
    expect(destination.models[0]?.memory).toEqual(STATE);
  });
});

test('all devices hold back DMA to each other before any stops, and start together', async () => {
  const three = [{ migrationFlags: 7 }, { migrationFlags: 3 }, { migrationFlags: 7 }];
  const source = side(three, true);
  const destination = side(three, false);
  const order: string[] = [];
  for (const [i, model] of source.models.entries()) model.onState = (state) => order.push(`${i} ${state}`);
  expect((await move(source, destination)).sent).toMatchObject({ status: 'fulfilled' });
  const lastP2p = Math.max(...order.map((entry, i) => (entry.endsWith('_P2P') ? i : -1)));
  const firstStop = order.findIndex((entry) => / STOP/.test(entry));
  expect(order.filter((entry) => entry.endsWith('_P2P'))).toHaveLength(3);
  expect(lastP2p).toBeLessThan(firstStop);
});

test('a device that goes to ERROR when it is to stop: the guest runs on, and the reset is told', async () => {
  const source = side([{ failInto: { state: 'STOP_COPY', leaves: 'ERROR' } }, {}], true);
  const resets: string[] = [];
  source.set.resets.subscribe(({ device, cause }) => resets.push(`${device.id} ${(cause as GodwitError).code}`));
  const { sent } = await move(source, side([{}, {}], false));
  const reason = (sent as PromiseRejectedResult).reason as GodwitError;
  expect(reason.message).toMatch(/d0 did not get from PRE_COPY_P2P to STOP_COPY .* it is in ERROR/);
  expect(resets).toEqual(['d0 GODWIT_DEVICE_FAILED']);
  expect(source.models.map(({ state }) => state)).toEqual(['RUNNING', 'RUNNING']);
  expect(source.models.map(({ resets }) => resets)).toEqual([1, 0]);
  expect(source.vm.running).toBe(true);
});

test('a device that stays where it was is started again without a reset', async () => {
  const source = side([{ failInto: { state: 'PRE_COPY_P2P', leaves: 'PRE_COPY' } }], true);
  const { sent } = await move(source, side([{}], false));
  expect((sent as PromiseRejectedResult).reason).toMatchObject({ code: 'GODWIT_DEVICE_FAILED' });
  expect([source.models[0]?.state, source.models[0]?.resets]).toEqual(['RUNNING', 0]);
});

test.each([
  ['cut short', (whole: Uint8Array) => whole.subarray(0, -1)],
  ['with a byte too many', (whole: Uint8Array) => Uint8Array.of(...whole, 0)],
])('state %s: the device refuses it, and is usable again', async (_, spoil) => {
  const source = side([{}], true);
  const destination = side([{}], false);
  (source.models[0] as DeviceModel).memory = STATE;
  const saving = source.set.devices[0] as VfioMigratableDevice;
  const whole: number[] = [];
  for await (const piece of saving.save()) whole.push(...piece);
  await saving.release();
  const spoiled = (async function* () {
    yield framedState(saving.kind, spoil(deviceBytes(saving.kind, Uint8Array.from(whole))));
  })();
  const error = await errorOf(() => destination.set.devices[0]?.load(spoiled, STATE_VERSION));
  expect(error.code).toBe('GODWIT_DEVICE_FAILED');
  expect([destination.models[0]?.state, destination.models[0]?.resets]).toEqual(['RUNNING', 1]);
});

test.each([
  ['no state at all', [], 'GODWIT_BAD_STREAM'],
  ['something else', [[1, 2, 3]], 'GODWIT_BAD_STREAM'],
  ['the wrong version', [[71, 86, 70, 83, 9, 0, 1, 0, 97]], 'GODWIT_VERSION_MISMATCH'],
  ['another kind', [[71, 86, 70, 83, 2, 0], [1, 0], [97]], 'GODWIT_DEVICE_MISMATCH'],
  ['a kind without end', [[71, 86, 70, 83, 2, 0, 255, 255]], 'GODWIT_BAD_STREAM'],
  ['half a header', [[71, 86]], 'GODWIT_BAD_STREAM'],
  [
    'a record of an unknown kind',
    [[71, 86, 70, 83, 2, 0, 10, 0], MODEL_KIND, [9, 0, 0, 0, 0, 0, 0, 0]],
    'GODWIT_BAD_STREAM',
  ],
  [
    'a beginning with a length',
    [[71, 86, 70, 83, 2, 0, 10, 0], MODEL_KIND, [2, 0, 0, 0, 1, 0, 0, 0]],
    'GODWIT_BAD_STREAM',
  ],
  ['half a record’s head', [[71, 86, 70, 83, 2, 0, 10, 0], MODEL_KIND, [1, 0, 0]], 'GODWIT_BAD_STREAM'],
] as const)('%s is refused before the device is touched', async (_, chunks, code) => {
  const { set, models } = side([{}], false);
  const state = (async function* () {
    for (const chunk of chunks) yield Uint8Array.from(chunk);
  })();
  expect((await errorOf(() => set.devices[0]?.load(state, STATE_VERSION))).code).toBe(code);
  expect(models[0]?.visited).toEqual([]);
});

test('a device in ERROR: the error says what gets it out', async () => {
  const { models, set } = side([{}], true);
  (models[0] as DeviceModel).state = 'ERROR';
  const error = await errorOf(() => set.devices[0]?.migration.moveTo('STOP'));
  expect(error.code).toBe('GODWIT_DEVICE_FAILED');
  expect(error.message).toMatch(/only a reset/);
});

test('a device that cannot migrate, and a way that is not there', async () => {
  const kernel = new VfioModel([{ number: 1, devices: { fixed: { migrationFlags: 0 }, d: {} } }]);
  const group = VfioGroup.open(1, kernel);
  const container = Type1Container.open([group], kernel);
  const fixed = VfioDevice.open(group, 'fixed', kernel);
  expect((await errorOf(() => new DeviceMigration(fixed))).code).toBe('GODWIT_UNSUPPORTED');
  const device = VfioDevice.open(group, 'd', kernel);
  const migration = new DeviceMigration(device);
  const fd = (await migration.moveTo('STOP_COPY')) as number;
  const error = await errorOf(() => migration.moveTo('PRE_COPY'));
  expect(error.message).toBe('d is in STOP_COPY, from where there is no way to PRE_COPY');
  for (const open of [fd, fixed.fd, device.fd]) kernel.close(open);
  container.close();
  group.close();
});

test('a device that fails on its way back, but not into ERROR, comes back at the second attempt', async () => {
  const source = side([{ failInto: { state: 'RUNNING_P2P', leaves: 'STOP' } }], true);
  const device = source.set.devices[0] as VfioMigratableDevice;
  await device.migration.moveTo('PRE_COPY').then((fd) => source.kernel.close(fd as number));
  await source.set.pause();
  await source.set.resume();
  expect([source.models[0]?.state, source.models[0]?.resets]).toEqual(['RUNNING', 0]);
});

test('after a restart of the destination pre-copy begins with the first byte', async () => {
  const source = side([{}], true);
  const device = source.set.devices[0] as VfioMigratableDevice;
  const streamed = async (): Promise<number[]> => {
    const bytes: number[] = [];
    for await (const piece of device.precopy?.() ?? []) bytes.push(...piece);
    return bytes;
  };
  const first = await streamed();
  expect(first.length).toBeGreaterThan(8);
  expect(await streamed()).toEqual([]);
  await device.restart();
  expect(source.models[0]?.state).toBe('RUNNING');
  expect(await streamed()).toEqual(first);
  await device.release();
});

test('the estimate is what stopping would take, and what pre-copy still has', async () => {
  const { set, models } = side([{}], true);
  const device = set.devices[0] as VfioMigratableDevice;
  (models[0] as DeviceModel).memory = STATE;
  expect(device.stateBytes()).toBe(58);
  const pieces = device.precopy?.()[Symbol.asyncIterator]();
  await pieces?.next();
  expect(device.stateBytes()).toBe(58 + 8);
  while ((await pieces?.next())?.done === false);
  expect(device.stateBytes()).toBe(58);
  await device.release();
});

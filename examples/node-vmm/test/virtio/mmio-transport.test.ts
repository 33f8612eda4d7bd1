import { afterEach, expect, test } from '@jest/globals';
import { DeviceStatus, FEATURE_VERSION_1, MmioRegister } from '../../dist/virtio/virtio-numbers.js';
import { savedState } from '../cold-migration.js';
import { MadeDevice } from './made-device.js';
import { ToyDevice } from './toy-device.js';

const { acknowledge, driver, featuresOk, driverOk, needsReset } = DeviceStatus;
const made: MadeDevice[] = [];
afterEach(() => Promise.all(made.splice(0).map((each) => each.close())));

function device(): MadeDevice {
  const one = new MadeDevice(new ToyDevice());
  made.push(one);
  one.transport.start();
  return one;
}

function running(): MadeDevice {
  const one = device();
  one.driver.initialize();
  return one;
}

test('a driver finds the magic number, the version, the type, and a queue', () => {
  const { transport } = device();
  const read = (offset: number) => transport.read(offset, 4);
  expect(read(MmioRegister.magic)).toBe(0x7472_6976);
  expect(read(MmioRegister.version)).toBe(2);
  expect(read(MmioRegister.deviceType)).toBe(42);
  expect(read(MmioRegister.queueSizeMaximum)).toBe(128);
  transport.write(MmioRegister.queueSelect, 4, 1);
  expect(read(MmioRegister.queueSizeMaximum)).toBe(0);
  expect(read(MmioRegister.sharedMemoryLengthLow)).toBe(0xffff_ffff);
  expect(transport.read(MmioRegister.magic, 2)).toBe(0);
});

test('the configuration space is read and written by bytes and words; beyond its end are zeros', () => {
  const { transport } = device();
  expect(transport.read(MmioRegister.config, 4)).toBe(0x0403_0201);
  expect(transport.read(MmioRegister.config + 1, 2)).toBe(0x0302);
  expect(transport.read(MmioRegister.config + 3, 4)).toBe(0x04);
  transport.write(MmioRegister.config + 2, 2, 0xbbaa);
  expect(transport.read(MmioRegister.config, 4)).toBe(0xbbaa_0201);
});

test('features: what was not offered, or no VERSION_1, is not accepted', () => {
  const { driver: fake } = device();
  expect(fake.offered()).toBe(FEATURE_VERSION_1 | 2n);
  for (const features of [2n, FEATURE_VERSION_1 | 4n]) {
    fake.status = 0;
    fake.status = acknowledge | driver;
    fake.accept(features);
    fake.status = acknowledge | driver | featuresOk;
    expect(fake.status).toBe(acknowledge | driver);
    fake.status = acknowledge | driver | featuresOk | driverOk;
    expect(fake.status).toBe(acknowledge | driver);
  }
  fake.accept(FEATURE_VERSION_1);
  fake.status = acknowledge | driver | featuresOk;
  expect(fake.status).toBe(acknowledge | driver | featuresOk);
});

test('a chain is served, given back, and interrupts until that is acknowledged', async () => {
  const one = running();
  const queue = one.driver.queues[0];
  const head = queue?.add([{ out: Uint8Array.of(1, 2, 3) }, { out: Uint8Array.of(4) }, { room: 2 }, { room: 6 }]);
  queue?.kick();
  const changed = one.changed();
  await changed;
  expect(one.levels).toEqual([false, true]);
  expect(one.transport.read(MmioRegister.interruptStatus, 4)).toBe(1);
  one.transport.write(MmioRegister.interruptAcknowledge, 4, 1);
  expect(one.levels).toEqual([false, true, false]);
  // The toy answers with the bytes, each one more.
  expect(queue?.takeUsed()).toEqual([{ head, written: Uint8Array.of(2, 3, 4, 5) }]);
});

test('the rings go round, also past an index of 65535', async () => {
  const one = running();
  const queue = one.driver.queues[0];
  one.transport.queues[0]?.reset();
  Object.assign(one.transport.queues[0]?.registers ?? {}, { ready: true, nextAvailable: 0xfffe, nextUsed: 0 });
  queue?.setAvailable(0xfffe);
  for (let i = 0; i < 300; i++) {
    queue?.add([{ out: Uint8Array.of(i & 0x7f) }, { room: 1 }]);
    queue?.kick();
    expect((await one.used(1))[0]?.written).toEqual(Uint8Array.of((i & 0x7f) + 1));
  }
});

test('what was made available before the driver is ready, or while the machine stands, is served later', async () => {
  const one = device();
  await one.transport.stop();
  one.driver.initialize();
  one.driver.queues[0]?.add([{ out: Uint8Array.of(7) }, { room: 1 }]);
  one.driver.queues[0]?.kick();
  await new Promise(setImmediate);
  expect(one.driver.queues[0]?.takeUsed()).toEqual([]);
  one.transport.start();
  expect((await one.used(1))[0]?.written).toEqual(Uint8Array.of(8));
});

test('a reset takes away what is in hand: it is not given back, and its memory is not written', async () => {
  const toy = new ToyDevice();
  const one = new MadeDevice(toy);
  made.push(one);
  one.transport.start();
  one.driver.initialize();
  const queue = one.driver.queues[0];
  const release = toy.hold();
  const head = queue?.add([{ out: Uint8Array.of(1) }, { room: 1 }]) ?? 0;
  queue?.kick();
  await toy.held;
  one.driver.status = 0;
  expect(one.driver.status).toBe(0);
  release();
  await one.transport.stop();
  expect(queue?.takeUsed()).toEqual([]);
  expect(one.view(queue?.roomOf(head)[0]?.address ?? 0, 1)[0]).toBe(0);
  expect(one.broken).toEqual([]);
  one.transport.start();
  one.driver.initialize();
  one.driver.queues[0]?.takeUsed();
  expect(one.driver.status & needsReset).toBe(0);
});

test('a pause waits for what is in hand', async () => {
  const toy = new ToyDevice();
  const one = new MadeDevice(toy);
  made.push(one);
  one.transport.start();
  one.driver.initialize();
  const release = toy.hold();
  one.driver.queues[0]?.add([{ out: Uint8Array.of(1) }, { room: 1 }]);
  one.driver.queues[0]?.kick();
  await toy.held;
  let stopped = false;
  const stopping = one.transport.stop().then(() => {
    stopped = true;
  });
  await new Promise(setImmediate);
  expect(stopped).toBe(false);
  release();
  await stopping;
  expect(one.driver.queues[0]?.takeUsed()).toHaveLength(1);
});

test('a broken device says so once, with an interrupt for a change of configuration, and works after a reset', async () => {
  const one = running();
  const queue = one.driver.queues[0];
  queue?.describe(0, 0x10_0000, 0, 0, 0);
  queue?.offer(0);
  const broken = one.changed();
  queue?.kick();
  await broken;
  await new Promise(setImmediate);
  expect(one.broken).toEqual(['descriptor 0 has 0 bytes at 0x100000, not RAM']);
  expect(one.driver.status).toBe(acknowledge | driver | featuresOk | driverOk | needsReset);
  expect(one.transport.read(MmioRegister.interruptStatus, 4)).toBe(2);
  queue?.kick();
  await new Promise(setImmediate);
  expect(one.broken).toHaveLength(1);
  const again = new MadeDevice(new ToyDevice());
  made.push(again);
  one.driver.initialize();
  expect(one.driver.status & needsReset).toBe(0);
});

test('the state moves to another device: registers, queues, and an interrupt that is not acknowledged', async () => {
  const one = running();
  one.driver.queues[0]?.add([{ out: Uint8Array.of(1) }, { room: 1 }]);
  one.driver.queues[0]?.kick();
  await one.changed();
  await one.transport.stop();
  const bytes = await savedState(one.state);
  const next = new MadeDevice(new ToyDevice(), one.memory);
  await next.state.load(chunk(bytes), 1);
  expect(next.levels).toEqual([true]);
  expect(await savedState(next.state)).toEqual(bytes);
  expect(next.driver.status).toBe(one.driver.status);
  expect(bytes.byteLength).toBeLessThanOrEqual(next.state.maximumStateBytes ?? 0);
});

test('a state with a feature that is not offered, with unknown bits, or cut off, is refused', async () => {
  const one = running();
  await one.transport.stop();
  const bytes = await savedState(one.state);
  const changed = (at: number, value: number) => {
    const copy = Uint8Array.from(bytes);
    copy[at] = value;
    return copy;
  };
  // Behind "GDS1", a tag and a length come the registers, with the driver's features at 24.
  const load = (state: Uint8Array) => one.state.load(chunk(state), 1);
  await expect(load(changed(12 + 24, 0xff))).rejects.toMatchObject({ code: 'GODWIT_UNSUPPORTED' });
  await expect(load(changed(12 + 1, 0xff))).rejects.toMatchObject({ code: 'GODWIT_DEVICE_FAILED' });
  await expect(load(bytes.subarray(0, 50))).rejects.toMatchObject({ code: 'GODWIT_DEVICE_FAILED' });
  await expect(one.state.load(chunk(bytes), 2)).rejects.toMatchObject({ code: 'GODWIT_DEVICE_FAILED' });
  expect(await savedState(one.state)).toEqual(bytes);
});

async function* chunk(bytes: Uint8Array): AsyncIterable<Uint8Array> {
  yield bytes;
}

import { migrate, receive } from '@godwit/core';
import { type FrameTap, memoryLink, VirtualClock } from '@godwit/core/testing';
import { Errno } from '@godwit/linux/unstable';
import { VfioDevice, type VfioMigratableDevice } from '@godwit/vfio';
import { type DeviceModel, type DeviceModelOptions, deviceBytes, VfioModel } from '@godwit/vfio/testing';
import { afterEach, describe, expect, test } from '@jest/globals';
import { errorOf } from './error-of.js';
import { closeSides, modelSide, STATE } from './model-side.js';

/** Resets of a device: those of the guest, behind the engine's back, and ours, when somebody else has the device's lock. */

afterEach(closeSides);

const KIND = 'mdev:model';
const ANEW = STATE.map((byte) => byte ^ 0x55);

/** What the guest does to its device: the state machine is in RUNNING again, and the driver sets the device up anew. */
function guestResets(model: DeviceModel): void {
  model.reset();
  model.memory = ANEW;
}

function oneDevice(options: DeviceModelOptions = {}) {
  const side = modelSide([options], { running: true });
  const model = side.models[0] as DeviceModel;
  model.memory = STATE;
  return { ...side, model, device: side.set.devices[0] as VfioMigratableDevice };
}

async function taken(
  pieces: AsyncIterable<Uint8Array> | undefined,
  most = Number.POSITIVE_INFINITY,
): Promise<number[]> {
  const bytes: number[] = [];
  let left = most;
  if (left === 0) return bytes;
  for await (const piece of pieces ?? []) {
    bytes.push(...piece);
    if (--left === 0) break;
  }
  return bytes;
}

describe('the guest resets its device during pre-copy', () => {
  test.each([0, 1, 2, 3])('after %d pieces: the state begins anew, and no descriptor is lost', async (pieces) => {
    const { device, model, kernel, set } = oneDevice();
    const before = kernel.openDescriptors;
    const stream = await taken(device.precopy?.(), pieces);
    guestResets(model);
    expect(device.stateBytes()).toBe(8 + ANEW.byteLength);
    expect(device.switchoverBlocker()).toBe(
      pieces === 0
        ? 'd0 has not begun to stream its state'
        : 'the guest has reset d0, and its state has to be streamed anew',
    );
    stream.push(...(await taken(device.precopy?.())));
    expect(kernel.openDescriptors).toBe(before + 1);
    expect(device.switchoverBlocker()).toBeUndefined();
    await set.pause();
    stream.push(...(await taken(device.save())));
    expect([...deviceBytes(KIND, Uint8Array.from(stream))].slice(8)).toEqual([...ANEW]);
    await device.release();
    expect([kernel.openDescriptors, model.state]).toEqual([before, 'STOP']);
  });

  test('while a piece is read: the round ends, and the next one begins anew', async () => {
    const { device, model, kernel } = oneDevice();
    const read = kernel.read.bind(kernel);
    let first = true;
    kernel.read = async (fd, buffer) => {
      if (first) guestResets(model);
      first = false;
      return read(fd, buffer);
    };
    const stream = await taken(device.precopy?.());
    stream.push(...(await taken(device.precopy?.())));
    await device.stop();
    stream.push(...(await taken(device.save())));
    expect([...deviceBytes(KIND, Uint8Array.from(stream))].slice(8)).toEqual([...ANEW]);
    await device.release();
  });

  test('between two calls of ours: the session that came back with a change of state is the one that is read', async () => {
    const { device, model, kernel, set } = oneDevice();
    const before = kernel.openDescriptors;
    const stream = await taken(device.precopy?.());
    const ioctlAsync = kernel.ioctlAsync.bind(kernel);
    let first = true;
    // The state was looked at, and is about to be changed.
    kernel.ioctlAsync = async (...call) => {
      if (first) guestResets(model);
      first = false;
      return ioctlAsync(...call);
    };
    await set.holdBack();
    expect([model.state, kernel.openDescriptors]).toEqual(['PRE_COPY_P2P', before + 1]);
    await set.pause();
    stream.push(...(await taken(device.save())));
    expect([...deviceBytes(KIND, Uint8Array.from(stream))].slice(8)).toEqual([...ANEW]);
    await device.release();
    expect(kernel.openDescriptors).toBe(before);
  });

  test('after the last round, before the guest was paused: save has all of it', async () => {
    const { device, model, set } = oneDevice();
    const stream = await taken(device.precopy?.());
    guestResets(model);
    await set.pause();
    expect(model.state).toBe('STOP');
    stream.push(...(await taken(device.save())));
    expect([...deviceBytes(KIND, Uint8Array.from(stream))].slice(8)).toEqual([...ANEW]);
    await device.release();
  });

  test('the set runs its devices again, and nothing is to be restarted for it', async () => {
    const { device, model, set } = oneDevice();
    await taken(device.precopy?.());
    guestResets(model);
    await set.holdBack();
    await set.resume();
    expect([model.state, model.resets]).toEqual(['RUNNING', 1]);
    expect((await taken(device.precopy?.())).length).toBeGreaterThan(0);
    await device.release();
  });
});

describe('in a migration, at every frame', () => {
  /** Moves a VM with two devices; the guest resets the first one as frame `at` of the link is sent, if it still runs. */
  async function moved(at: number, options: DeviceModelOptions) {
    const devices = (options.migrationFlags ?? 7) & 2 ? [options, {}] : [options];
    const source = modelSide(devices, { running: true });
    const destination = modelSide(devices, { running: false });
    for (const model of source.models) model.memory = STATE;
    const clock = new VirtualClock();
    let frames = 0;
    let reset = false;
    const tap: FrameTap = (frame, payload) => {
      const [model] = source.models as [DeviceModel];
      if (frames++ === at && source.vm.running && ['RUNNING', 'PRE_COPY'].includes(model.state)) {
        guestResets(model);
        reset = true;
      }
      return { frame, payload };
    };
    const link = memoryLink({ clock, fromSource: tap, fromDestination: tap });
    const incoming = receive(link.listener, { prepare: () => destination.set.attachTo(destination.vm), clock });
    const migration = migrate(source.set.attachTo(source.vm), link.connector, { clock });
    await migration.result;
    await incoming.result;
    return { source, destination, frames, reset };
  }

  test.each([
    ['pre-copy and P2P', { migrationFlags: 7 }],
    ['pre-copy only', { migrationFlags: 5 }],
    ['P2P only', { migrationFlags: 3 }],
    ['neither', { migrationFlags: 1 }],
  ])('a device with %s arrives as the guest left it', async (_, options) => {
    const { frames } = await moved(-1, options);
    closeSides();
    let resets = 0;
    for (let at = 0; at < frames; at++) {
      const { source, destination, reset } = await moved(at, options);
      if (reset) resets++;
      expect([at, [...(destination.models[0]?.memory ?? [])]]).toEqual([at, [...(reset ? ANEW : STATE)]]);
      expect(destination.models.map(({ state }) => state)).toEqual(destination.models.map(() => 'RUNNING'));
      expect(source.models[0]?.resets).toBe(reset ? 1 : 0);
      closeSides();
    }
    expect(resets).toBeGreaterThan(2);
  });
});

describe('VFIO_DEVICE_RESET while somebody holds the device’s lock', () => {
  test.each([1, 3, 8])('%d times in vain: it is tried again', async (lockedResets) => {
    const { set, model } = oneDevice({
      lockedResets,
      failInto: { state: 'RUNNING_P2P', leaves: 'ERROR' },
    });
    model.state = 'STOP';
    const lost: string[] = [];
    set.resets.subscribe(({ device, cause }) => lost.push(`${device.id} ${(cause as { code: string }).code}`));
    await set.resume();
    expect([model.state, model.resets, lost]).toEqual(['RUNNING', 1, ['d0 GODWIT_DEVICE_FAILED']]);
  });

  test('for good: the error says who may have it', async () => {
    const kernel = new VfioModel([]);
    let calls = 0;
    kernel.ioctlAsync = async () => {
      calls++;
      return -Errno.EAGAIN;
    };
    const error = await errorOf(() => VfioDevice.adopt(1, 'nic0', kernel).reset());
    expect(error.code).toBe('GODWIT_DEVICE_BUSY');
    expect(error.message).toMatch(/VFIO_DEVICE_RESET of nic0 failed: EAGAIN .*holds the lock of the device or its bus/);
    expect(calls).toBe(10);
  });

  test('other errors are not tried again', async () => {
    const kernel = new VfioModel([]);
    let calls = 0;
    kernel.ioctlAsync = async () => {
      calls++;
      return -Errno.ENOTTY;
    };
    expect((await errorOf(() => VfioDevice.adopt(1, 'nic0', kernel).reset())).code).toBe('GODWIT_UNSUPPORTED');
    expect(calls).toBe(1);
  });
});

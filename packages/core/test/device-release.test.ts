import { type MigratableDevice, roundCap } from '@godwit/core';
import { FaultyDevice, ToyVm } from '@godwit/core/testing';
import { expect, test } from '@jest/globals';
import { BLOCKS, expectMoved, expectStayed, filledVm, start } from './toy-migration.js';

/** A device that streams, and notes when it may stop. */
class Streaming extends FaultyDevice {
  readonly released: boolean[] = [];
  readonly #running: () => boolean;

  constructor(id: string, running: () => boolean) {
    super(id, new Uint8Array([1]));
    this.#running = running;
  }

  async *precopy(): AsyncGenerator<Uint8Array> {
    yield new Uint8Array([0]);
  }

  async release(): Promise<void> {
    this.released.push(this.#running());
  }
}

function streaming(extra: readonly MigratableDevice[] = []) {
  const source = filledVm();
  const destination = new ToyVm(BLOCKS, { running: false });
  const device = new Streaming('stream', () => source.running);
  source.devices = [device, ...extra];
  destination.devices = [new Streaming('stream', () => true), ...extra.map(({ id }) => new FaultyDevice(id))];
  return { source, destination, device };
}

test('a device is released once when the guest has moved', async () => {
  const { source, destination, device } = streaming();
  const toy = start({ source, destination });
  expectMoved(toy, await toy.settled());
  expect(device.released).toEqual([false]);
});

test('a device is released when the migration gives up before the guest was paused', async () => {
  const { source, destination, device } = streaming();
  const toy = start({ source, destination, migrate: { policy: roundCap(1, 'abort') } });
  expectStayed(toy, await toy.settled(), 'GODWIT_NOT_CONVERGING');
  expect(device.released).toEqual([true]);
});

test('when saving fails a device is released after the guest runs again', async () => {
  const { source, destination, device } = streaming([new FaultyDevice('late', new Uint8Array(1), { failSave: 1 })]);
  const toy = start({ source, destination });
  expectStayed(toy, await toy.settled(), 'GODWIT_DEVICE_FAILED');
  expect(device.released).toEqual([true]);
});

test('a device that was never asked for state is not released', async () => {
  const { source, destination, device } = streaming();
  source.onPause = () => {
    throw new Error('boom');
  };
  const bare = new FaultyDevice('bare');
  let released = 0;
  source.devices = [device, Object.assign(bare, { release: async () => void released++ })];
  destination.devices = [new FaultyDevice('stream'), new FaultyDevice('bare')];
  const toy = start({ source, destination });
  expectStayed(toy, await toy.settled(), 'GODWIT_VM_FAILED');
  expect([device.released.length, released]).toEqual([1, 0]);
});

test('a device that cannot let go, or hangs in it, is a warning at most', async () => {
  for (const release of [() => Promise.reject(new Error('stuck')), () => new Promise<void>(() => {})]) {
    const { source, destination, device } = streaming();
    Object.assign(device, { release });
    const toy = start({ source, destination });
    expectMoved(toy, await toy.settled());
  }
});

import { type MigratableDevice, roundCap } from '@godwit/core';
import { FaultyDevice, ToyVm } from '@godwit/core/testing';
import { expect, test } from '@jest/globals';
import { BLOCKS, expectMoved, expectStayed, filledVm, start } from './toy-migration.js';

test('a device that is still saving has stopped before the guest runs again', async () => {
  const source = filledVm();
  let saving = false;
  const device = new FaultyDevice('disk');
  source.devices = [
    Object.assign(device, {
      async *save() {
        saving = true;
        try {
          for (;;) {
            await toy.clock.sleep(10);
            yield Uint8Array.of(1);
          }
        } finally {
          await toy.clock.sleep(20);
          saving = false;
        }
      },
    }),
  ];
  const whenResumed: boolean[] = [];
  source.onResume = () => void whenResumed.push(saving);
  const toy = start({
    source,
    destination: new ToyVm(BLOCKS, { running: false, devices: [new FaultyDevice('disk')] }),
  });
  void toy.clock.sleep(100).then(() => toy.migration.cancel());
  expectStayed(toy, await toy.settled(), 'GODWIT_CANCELLED');
  expect(whenResumed).toEqual([false]);
});

test('devices are loaded in the order of the destination, each with its own state and version', async () => {
  const order: string[] = [];
  const device = (id: string, version: number, minimumVersion = version) => {
    const made = new FaultyDevice(id, new TextEncoder().encode(id), {}, version);
    return Object.assign(made, {
      minimumVersion,
      load: async (state: AsyncIterable<Uint8Array>, stateVersion: number) => {
        let text = '';
        for await (const chunk of state) text += new TextDecoder().decode(chunk);
        order.push(`${id}: ${text} v${stateVersion}`);
      },
    });
  };
  const source = filledVm();
  source.devices = [device('a', 3), device('b', 2), device('c', 1)];
  const devices = [device('c', 1), device('a', 5, 3), device('b', 2)];
  const toy = start({ source, destination: new ToyVm(BLOCKS, { running: false, devices }) });
  expectMoved(toy, await toy.settled());
  expect(order).toEqual(['c: c v1', 'a: a v3', 'b: b v2']);
});

test('a device that moves while the guest runs: its pieces, then the rest, are one state, loaded as they come', async () => {
  const source = filledVm();
  let calls = 0;
  const iterative: MigratableDevice = {
    id: 'vfio',
    version: 1,
    async *precopy() {
      calls++;
      yield Uint8Array.of(calls, 0);
      yield new Uint8Array();
      yield Uint8Array.of(calls, 1);
    },
    async *save() {
      yield Uint8Array.of(99);
    },
    load: async () => {},
  };
  source.devices = [iterative];
  const loaded: number[] = [];
  let startedWhile: string | undefined;
  const destination = new ToyVm(BLOCKS, { running: false });
  destination.devices = [
    {
      ...iterative,
      async load(state) {
        startedWhile = toy.migration.state;
        for await (const chunk of state) loaded.push(...chunk);
      },
    },
  ];
  const toy = start({ source, destination, migrate: { policy: roundCap(3, 'switchover') } });
  expectMoved(toy, await toy.settled());
  expect(loaded).toEqual([1, 0, 1, 1, 2, 0, 2, 1, 3, 0, 3, 1, 99]);
  expect(startedWhile).toBe('active');
});

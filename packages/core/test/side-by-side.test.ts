import type { MigratableDevice } from '@godwit/core';
import { engineParts, ToyVm } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { bytes, ScriptedDevice, senderOf, turn } from './played-device-link.js';
import { BLOCKS } from './toy-migration.js';

const { DeviceLoader } = engineParts;

/** Devices that are `parallel` are saved and loaded beside their neighbours that are, too. */

const never = new AbortController().signal;

/** Opens when told to. */
function gate(): { readonly shut: Promise<void>; readonly open: () => void } {
  let open = (): void => undefined;
  const shut = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { shut, open };
}

class ParallelDevice extends ScriptedDevice {
  readonly parallel = true;
}

describe('states that are saved', () => {
  test('neighbours that are parallel run together; what is before them ends first, and what is behind them waits', async () => {
    const log: string[] = [];
    const gates = new Map<string, ReturnType<typeof gate>>();
    const device = (id: string, parallel: boolean): MigratableDevice => ({
      id,
      version: 1,
      ...(parallel ? { parallel } : {}),
      async *save() {
        log.push(`${id} begins`);
        const { shut } = gates.get(id) as ReturnType<typeof gate>;
        await shut;
        yield bytes(1);
        log.push(`${id} ends`);
      },
      load: async () => {},
    });
    const devices = [
      device('vcpu', false),
      device('nic0', true),
      device('nic1', true),
      device('chip', false),
      device('gpu', true),
    ];
    for (const { id } of devices) gates.set(id, gate());
    const { sender, lines } = senderOf(devices);
    const saving = sender.save(1, never);
    const steps: string[][] = [];
    for (const id of ['vcpu', 'nic1', 'nic0', 'chip', 'gpu']) {
      await turn();
      steps.push(log.splice(0));
      gates.get(id)?.open();
    }
    await saving;
    steps.push(log.splice(0));
    expect(steps).toEqual([
      ['vcpu begins'],
      ['vcpu ends', 'nic0 begins', 'nic1 begins'],
      ['nic1 ends'],
      ['nic0 ends', 'chip begins'],
      ['chip ends', 'gpu begins'],
      ['gpu ends'],
    ]);
    expect(lines.map((line) => line.replace(/ attempt.*:/, ':')).slice(2, 6)).toEqual([
      'device 2 piece 0: 1',
      'device 2 piece 1: last',
      'device 1 piece 0: 1',
      'device 1 piece 1: last',
    ]);
  });

  test('one that fails ends those beside it: nothing of the attempt is sent any more', async () => {
    const [first, second] = [new ParallelDevice('first'), new ParallelDevice('second')];
    const { shut, open } = gate();
    first.chunks.save = (async function* () {
      yield bytes(1);
      await shut;
      yield bytes(2);
    })();
    second.chunks.save = (async function* (): AsyncGenerator<Uint8Array> {
      yield bytes(3);
      throw new Error('on purpose');
    })();
    const { sender, lines } = senderOf([first, second]);
    await expect(sender.save(1, never)).rejects.toMatchObject({
      code: 'GODWIT_DEVICE_FAILED',
      message: expect.stringMatching(/"second" failed to save its state: on purpose/),
    });
    const sent = [...lines];
    open();
    await turn();
    expect(lines).toEqual(sent);
    expect(sent).toEqual(['device 0 piece 0 attempt 1: 1', 'device 1 piece 0 attempt 1: 3']);
    await sender.calls.idle();
  });

  test('all together are no more than the destination holds', async () => {
    const devices = ['a', 'b'].map((id) => new ParallelDevice(id));
    for (const device of devices) device.chunks.save = [bytes(1, 2, 3), bytes(4, 5, 6)];
    await expect(senderOf(devices, 11).sender.save(1, never)).rejects.toMatchObject({ code: 'GODWIT_LIMIT_EXCEEDED' });
    for (const device of devices) device.chunks.save = [bytes(1, 2, 3), bytes(4, 5, 6)];
    await senderOf(devices, 12).sender.save(1, never);
  });
});

describe('states that are loaded', () => {
  function loaderOf(devices: readonly MigratableDevice[]) {
    const described = devices.map(({ id }) => ({ id, version: 1, stateBytes: 0 }));
    const loader = new DeviceLoader({
      vm: new ToyVm(BLOCKS, { running: false, devices }),
      described,
      maximumBytes: 1000,
      onFailure: () => {},
      onLoaded: () => {},
    });
    for (const device of devices.keys()) {
      loader.accept({ type: 'device', device, sequence: 0, last: true, attempt: 1 }, bytes(device));
    }
    return loader;
  }

  test('those that are parallel together, and a failure is told when all are over', async () => {
    const log: string[] = [];
    const { shut, open } = gate();
    const device = (id: string, parallel: boolean, work: () => Promise<void>): MigratableDevice => ({
      id,
      version: 1,
      ...(parallel ? { parallel } : {}),
      async *save() {},
      async load(state) {
        log.push(`${id} begins`);
        for await (const _ of state);
        await work();
        log.push(`${id} ends`);
      },
    });
    const loader = loaderOf([
      device('nic0', true, () => shut),
      device('nic1', true, async () => {
        throw new Error('on purpose');
      }),
      device('vcpu', false, async () => {}),
    ]);
    let settled = false;
    const loading = loader.loadAll(1).finally(() => {
      settled = true;
    });
    loading.catch(() => {});
    await turn();
    expect([log, settled]).toEqual([['nic0 begins', 'nic1 begins'], false]);
    open();
    await expect(loading).rejects.toMatchObject({
      message: expect.stringMatching(/"nic1" failed to load .* on purpose/),
    });
    // What is behind them is not loaded any more.
    expect(log).toEqual(['nic0 begins', 'nic1 begins', 'nic0 ends']);
  });
});

describe('sizes that nobody can tell', () => {
  test('are assumed, and each says why, for as long as it is so', async () => {
    const [known, unknown] = [new ScriptedDevice('known'), new ScriptedDevice('unknown')];
    let answer: number | { bytes: number; assumed: string } = { bytes: 1000.5, assumed: 'it is old' };
    const devices = [
      Object.assign(known, { stateBytes: () => 5 }),
      Object.assign(unknown, { stateBytes: async () => answer }),
    ];
    const { sender } = senderOf(devices);
    expect(await sender.reports.ask(never)).toEqual([5, 1001]);
    expect(sender.reports.assumptions).toEqual([undefined, 'it is old']);
    answer = 7;
    expect(await sender.reports.ask(never)).toEqual([5, 7]);
    expect(sender.reports.assumptions).toEqual([undefined, undefined]);
  });
});

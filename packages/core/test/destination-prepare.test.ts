import type { MigratableDevice } from '@godwit/core';
import { FaultyDevice, type ToyVm } from '@godwit/core/testing';
import { afterEach, describe, expect, test } from '@jest/globals';
import { device, end, PlayedSource, READY, zero } from './played-source.js';
import { held } from './played-stream.js';
import { PAGE } from './toy-migration.js';

let played: PlayedSource;
afterEach(async () => {
  played.incoming.cancel();
  await played.clock.sleep(1);
  await played.control.close().catch(() => {});
});

const question = (attempt: number, ...deviceSequences: number[]) =>
  ({ type: 'prepare', attempt, deviceSequences }) as const;

async function begin(features: readonly string[] = ['back']): Promise<ToyVm> {
  played = new PlayedSource();
  await played.hello({ features });
  await played.hear('welcome');
  return played.vm;
}

/** Lets everything that can run do so. */
const turn = () => played.clock.sleep(1);

describe('"prepare" is answered', () => {
  test('with the incarnation of the welcome, the attempt and the numbers that were asked about', async () => {
    await begin();
    await played.send(question(1, 0, 0));
    await played.hear('prepared');
    const [welcome] = played.heardOf('welcome');
    expect(played.heardOf('prepared')).toEqual([
      {
        type: 'prepared',
        incarnation: welcome?.incarnation,
        attempt: 1,
        deviceSequences: [0, 0],
        load: [],
        resume: [],
      },
    ]);
  });

  test('once the VM is prepared', async () => {
    const vm = await begin();
    const built = held();
    Object.assign(vm, { prepared: () => built.promise });
    await played.send(question(1, 0, 0));
    await turn();
    expect(played.heardOf('prepared')).toEqual([]);
    built.release();
    await turn();
    expect(played.heardOf('prepared')).toHaveLength(1);
  });

  test('once the pieces that were sent before it are loaded', async () => {
    await begin();
    await played.send(question(1, 1, 0));
    await turn();
    expect(played.heardOf('prepared')).toEqual([]);
    await played.send(device(0, 0, false));
    await turn();
    expect(played.heardOf('prepared')).toMatchObject([{ deviceSequences: [1, 0] }]);
  });

  test('only as far as it is the last question', async () => {
    await begin();
    await played.send(question(1, 1, 0), question(1, 0, 0), device(0, 0, false));
    await turn();
    expect(played.heardOf('prepared')).toMatchObject([{ deviceSequences: [0, 0] }]);
  });

  test('not after "switchover"', async () => {
    const vm = await begin();
    const built = held();
    Object.assign(vm, { prepared: () => built.promise });
    await played.send(question(1, 0, 0), ...READY);
    await played.hear('ready');
    built.release();
    await turn();
    expect(played.heardOf('prepared')).toEqual([]);
  });

  test('with what the VM expects of itself; nonsense is warned of', async () => {
    const vm = await begin();
    Object.assign(vm, { expectedResumeMs: () => -1 });
    await played.send(question(1, 0, 0));
    await played.hear('prepared');
    expect(played.heardOf('prepared')).toMatchObject([{ resume: [] }]);
    expect(played.eventsOf('warning')).toEqual([
      { type: 'warning', code: 'GODWIT_UNSUPPORTED', message: expect.stringMatching(/expectedResumeMs\(\) says -1/) },
    ]);
  });
});

describe('a VM that cannot be prepared', () => {
  const failing = async () => {
    const vm = await begin();
    const built = held();
    Object.assign(vm, {
      prepared: async () => {
        await built.promise;
        throw new Error('no thread for the vCPU');
      },
    });
    await played.send(question(1, 0, 0));
    await turn();
    return built;
  };

  test('ends the migration', async () => {
    const built = await failing();
    built.release();
    expect(await played.refused()).toBe('GODWIT_PREPARE_FAILED');
    expect(played.vm.abandoned?.message).toBe(
      'the destination could not be prepared for the switchover: no thread for the vCPU',
    );
  });

  test('ends nothing when the link was lost meanwhile: the source asks again', async () => {
    const built = await failing();
    await played.again({ features: ['back'] });
    await played.hear('welcome');
    built.release();
    await turn();
    expect([played.incoming.state, played.vm.abandoned]).toEqual(['active', undefined]);
    Object.assign(played.vm, { prepared: async () => {} });
    await played.send(question(1, 0, 0));
    await played.hear('prepared');
  });
});

describe('pages that a load has written before the attempt was given up', () => {
  /** Its load writes page 9. */
  const writer = (vm: ToyVm): MigratableDevice =>
    Object.assign(new FaultyDevice('uart'), {
      async load(state: AsyncIterable<Uint8Array>) {
        for await (const _ of state);
        vm.memory.blocks[0]?.bytes.fill(5, 9 * PAGE, 10 * PAGE);
      },
      reset: async () => {},
      loadWrites: () => [{ block: 0, firstPage: 9, pageCount: 1 }],
    });

  /** The attempt has been given up after it was loaded. */
  const wentBack = async (): Promise<ToyVm> => {
    played = new PlayedSource();
    const { vm } = played;
    vm.devices = [writer(vm), Object.assign(new FaultyDevice('rtc'), { loadWrites: () => [], reset: async () => {} })];
    await played.hello({ features: ['back'] });
    await played.hear('welcome');
    // A question before it: nothing is owed yet.
    await played.send(question(1, 0, 0));
    await played.hear('prepared');
    await played.send(...READY);
    await played.hear('ready');
    await played.send({ type: 'back', attempt: 1 });
    await played.hear('backAck');
    expect(played.heardOf('owed')).toEqual([]);
    played.heard = [];
    return vm;
  };

  test('are owed too where it was loaded before "switchover", though a question has been answered before', async () => {
    played = new PlayedSource();
    const { vm } = played;
    vm.devices = [writer(vm), Object.assign(new FaultyDevice('rtc'), { loadWrites: () => [], reset: async () => {} })];
    await played.hello({ features: ['back', 'loadEarly'] });
    await played.hear('welcome');
    await played.send(question(1, 0, 0));
    await played.hear('prepared');
    await played.send(device(0, 0, false, 1, 1), {
      ...{ type: 'loadEarly', attempt: 1, device: 0, deviceSequences: [0, 0] },
    });
    await played.hear('loaded');
    await played.send({ type: 'back', attempt: 1 });
    await played.hear('backAck');
    await played.send(question(2, 0, 0));
    await turn();
    expect(played.heardOf('owed')).toEqual([{ type: 'owed', block: 0, runs: [9, 1] }]);
  });

  test('are not named to a source that has gone on to "ready" by then', async () => {
    const built = held();
    const vm = await wentBack();
    Object.assign(vm, { prepared: () => built.promise });
    await played.send(question(2, 0, 0), end(0, 2), device(0, 0, true, 1, 2), device(1, 0, true, 1, 2));
    await played.send({ type: 'switchover', round: 2, attempt: 2, runState: 'running' });
    while (played.incoming.ownership !== 'ready' && played.clock.now() < 60_000) await turn();
    expect(played.incoming.ownership).toBe('ready');
    built.release();
    await turn();
    expect([played.heardOf('owed'), played.heardOf('prepared')]).toEqual([[], []]);
  });

  test('are owed: the source is told once over each connection, before "prepared"', async () => {
    const vm = await wentBack();
    await played.send(question(2, 0, 0), question(2, 0, 0));
    await turn();
    await played.send(question(2, 0, 0));
    await played.hear('prepared');
    await turn();
    const types = played.heard.map(({ type }) => type);
    expect(played.heardOf('owed')).toEqual([{ type: 'owed', block: 0, runs: [9, 1] }]);
    expect(types.indexOf('owed')).toBeLessThan(types.indexOf('prepared'));
    expect(types.slice(types.indexOf('owed'))).toEqual(['owed', 'prepared', 'prepared']);
    // It was never sent before, and is not zero any more.
    await played.send(zero([9, 1], { round: 2 }), end(1, 2));
    await turn();
    expect(vm.memory.blocks[0]?.bytes[9 * PAGE]).toBe(0);
    await played.again({ features: ['back'], attempt: 2 });
    await played.hear('resumed');
    await played.send(question(2, 0, 0));
    await played.hear('prepared');
    expect(played.heardOf('owed')).toEqual([{ type: 'owed', block: 0, runs: [9, 1] }]);
  });
});

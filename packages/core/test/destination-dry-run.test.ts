import { assertMayChange, claimOf, type Frame, type LinkListener, type ReceiveOptions } from '@godwit/core';
import { FaultyDevice } from '@godwit/core/testing';
import { afterEach, describe, expect, test } from '@jest/globals';
import { failingOnce, GO, ID, PlayedSource, through } from './played-source.js';
import { held } from './played-stream.js';

let played: PlayedSource;
afterEach(async () => {
  played.incoming.cancel();
  await played.clock.sleep(1);
  await played.control?.close().catch(() => {});
});

/** Lets everything that can run do so. */
const turn = () => played.clock.sleep(1);

/** Asks for a dry run, and notes each call of the VM's `abandon` with the state of its claim. */
async function asked(
  change: Parameters<PlayedSource['hello']>[0] = {},
  ...[options, listener]: [] | [Partial<ReceiveOptions>, (listener: LinkListener) => LinkListener]
) {
  played = new PlayedSource(100_000, options, listener);
  const { vm } = played;
  const abandoned: (readonly [string | undefined, string, string, number])[] = [];
  const freed = held();
  vm.abandon = async (reason) => {
    let mayChange = 'free';
    try {
      assertMayChange(vm.memory, 'unmap it');
    } catch {
      mayChange = 'held';
    }
    abandoned.push([(reason as { code?: string }).code, claimOf(vm).state, mayChange, played.link.openStreams]);
    await freed.promise;
  };
  await played.hello({ features: ['probe'], ...change, stage: 'dryRun' });
  return { abandoned, freed, vm };
}

/** The destination waits for another source, and has let go of the VM. */
async function waits(vm: PlayedSource['vm']): Promise<void> {
  await turn();
  expect([played.incoming.state, claimOf(vm).state]).toEqual(['none', 'idle']);
}

describe('a dry run', () => {
  test('is answered as a migration is; its VM is abandoned before its claim ends, and only once', async () => {
    const { abandoned, freed, vm } = await asked();
    await played.hear('welcome');
    expect(played.heardOf('welcome')).toMatchObject([{ features: ['probe'], version: 2 }]);
    expect(claimOf(vm)).toMatchObject({ state: 'arriving', migrationId: ID });
    await played.control.close();
    await turn();
    expect(abandoned).toEqual([['GODWIT_CANCELLED', 'arriving', 'free', 0]]);
    expect([claimOf(vm).state, played.link.openStreams]).toEqual(['arriving', 0]);
    freed.release();
    await waits(vm);
    played.incoming.cancel();
    await played.incoming.result.catch(() => {});
    expect(abandoned).toHaveLength(1);
  });

  test('takes frames that measure the link, and pings, and goes on', async () => {
    const { freed, vm } = await asked();
    freed.release();
    await played.hear('welcome');
    await played.send([{ type: 'probe' }, new Uint8Array(1000)], { type: 'probe' }, { type: 'ping', id: 1 });
    await played.hear('pong');
    expect(played.heardOf('error')).toEqual([]);
    await played.control.close();
    await waits(vm);
  });

  test.each<readonly [string, Frame | readonly [Frame, Uint8Array]]>([
    ['what begins a migration', { type: 'roundEnd', round: 1, pages: 0 }],
    ['"go"', GO],
    ['more than a frame may carry', [{ type: 'probe' }, new Uint8Array(4 * 2 ** 20 + 1)]],
  ])('ends with %s, and the destination waits on', async (_, frame) => {
    const { freed, vm, abandoned } = await asked();
    freed.release();
    await played.hear('welcome');
    await played.send(frame);
    await played.clock.sleep(5000);
    await waits(vm);
    // Not before its streams are closed.
    expect(abandoned).toEqual([['GODWIT_CANCELLED', 'arriving', 'free', 0]]);
  });

  test('of a source that falls silent ends by itself', async () => {
    const { freed, vm, abandoned } = await asked();
    freed.release();
    await played.hear('welcome');
    while (abandoned.length === 0 && played.clock.now() < 300_000) await played.clock.sleep(1000);
    expect(abandoned).toHaveLength(1);
    await played.clock.sleep(5000);
    await waits(vm);
  });

  test.each<readonly [string, Parameters<PlayedSource['hello']>[0], string]>([
    ['too many page channels', { pageChannels: 65 }, 'GODWIT_LIMIT_EXCEEDED'],
    ['another protocol', { minimumVersion: 99, maximumVersion: 99 }, 'GODWIT_VERSION_MISMATCH'],
    ['another device', { devices: [] }, 'GODWIT_DEVICE_MISMATCH'],
  ])('with %s fails with its reason, and the destination waits on', async (_, change, code) => {
    const { freed, vm } = await asked(change);
    freed.release();
    await played.hear('error');
    expect(played.heardOf('error')).toMatchObject([{ code }]);
    await waits(vm);
  });

  test('of a VM that fails in a way of its own says so', async () => {
    played = new PlayedSource();
    const { vm } = played;
    vm.devices = [
      Object.assign(new FaultyDevice('uart'), { migrationBlocker: () => Promise.reject(new Error('no driver')) }),
      new FaultyDevice('rtc'),
    ];
    await played.hello({ stage: 'dryRun' });
    await played.hear('error');
    expect(played.heardOf('error')).toMatchObject([
      { code: 'GODWIT_INTERNAL', message: 'the dry run failed: no driver' },
    ]);
    await waits(vm);
  });

  test('that the destination cancels ends with that reason, and the VM is abandoned', async () => {
    const { freed, vm, abandoned } = await asked();
    freed.release();
    await played.hear('welcome');
    played.incoming.cancel('enough');
    await expect(played.incoming.result).rejects.toMatchObject({ code: 'GODWIT_CANCELLED' });
    expect(abandoned).toHaveLength(1);
    expect(played.heardOf('error')).toMatchObject([{ code: 'GODWIT_CANCELLED' }]);
    expect([claimOf(vm).state, played.incoming.state]).toEqual(['idle', 'failed']);
  });

  test('whose answer cannot be written ends at once', async () => {
    const { freed, vm } = await asked({}, {}, failingOnce('welcome', new Error('EPIPE')));
    freed.release();
    await played.hear('error');
    expect(played.heardOf('error')).toMatchObject([{ code: 'GODWIT_INTERNAL', message: 'the dry run failed: EPIPE' }]);
    await played.clock.sleep(5000);
    await waits(vm);
  });

  test('builds the VM once its page channels have come', async () => {
    const [channels, calls] = [held(), [] as string[]];
    const prepare = () => {
      calls.push('prepare');
      return played.vm;
    };
    const late = through(({ pageChannels }) => ({
      pageChannels: async (...all) => {
        await channels.promise;
        return pageChannels(...all);
      },
    }));
    const { freed } = await asked({ pageChannels: 1 }, { prepare }, late);
    freed.release();
    await turn();
    expect(calls).toEqual([]);
    channels.release();
    await played.hear('welcome');
    expect(calls).toEqual(['prepare']);
  });

  test('is over before the next source is served', async () => {
    const built = held();
    let calls = 0;
    const prepare = async () => {
      calls++;
      await built.promise;
      return played.vm;
    };
    const { freed, vm } = await asked({}, { prepare }, (listener) => listener);
    freed.release();
    await turn();
    const { control } = played;
    await played.hello({ migrationId: 'f'.repeat(32) });
    await turn();
    expect([calls, claimOf(vm).state]).toEqual([1, 'idle']);
    built.release();
    await played.hear('welcome');
    expect([calls, claimOf(vm).migrationId]).toEqual([1, ID]);
    await control.close();
    while (calls < 2) await turn();
    await turn();
    expect(claimOf(vm)).toMatchObject({ state: 'arriving', migrationId: 'f'.repeat(32) });
  });

  test('with page channels waits for them', async () => {
    const { freed, vm } = await asked({ pageChannels: 1 });
    freed.release();
    await played.hear('welcome');
    expect(played.link.openStreams).toBe(4);
    void played.pages[0]?.close();
    await played.control.close();
    await played.clock.sleep(5000);
    await waits(vm);
    expect(played.link.openStreams).toBe(0);
  });
});

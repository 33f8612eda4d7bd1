import { claimOf, GodwitError, type MigratableVm, type PageRun, type StreamEncoding } from '@godwit/core';
import { FaultyDevice, ToyVm } from '@godwit/core/testing';
import { afterEach, describe, expect, test } from '@jest/globals';
import { failingOnce, GO, ID, PlayedSource, READY, through } from './played-source.js';
import { type Held, held } from './played-stream.js';
import { BLOCKS, PAGE } from './toy-migration.js';

let played: PlayedSource;
afterEach(async () => {
  played.incoming.cancel();
  await played.clock.sleep(1);
  await played.control?.close().catch(() => {});
});

/** Lets everything that can run do so. */
const turn = () => played.clock.sleep(1);

/** A destination whose VM takes until `built` is released. */
function slowly(): { built: Held; calls: string[] } {
  const built = held();
  const calls: string[] = [];
  const prepare = async (): Promise<MigratableVm> => {
    calls.push('prepare');
    await built.promise;
    return played.vm;
  };
  played = new PlayedSource(100_000, { prepare });
  return { built, calls };
}

describe('a link that is lost while the VM is being built', () => {
  test('ends nothing: the source comes back, and gets the welcome then', async () => {
    const { built, calls } = slowly();
    await played.hello();
    await turn();
    await played.again();
    await turn();
    expect([played.heard, played.incoming.state, played.vm.abandoned]).toEqual([[], 'setup', undefined]);
    built.release();
    await played.hear('welcome');
    expect([calls, played.vm.abandoned]).toEqual([['prepare'], undefined]);
    await played.send(...READY);
    await played.hear('ready');
  });

  test('even when nobody has come back by the time it is built', async () => {
    const { built } = slowly();
    await played.hello();
    await turn();
    played.link.cut();
    built.release();
    await turn();
    expect([played.incoming.state, played.vm.abandoned]).toEqual(['active', undefined]);
    expect(played.lost).toMatchObject([{ code: 'GODWIT_LINK_LOST' }]);
    await played.again();
    await played.hear('welcome');
  });

  test("may be the source's own doing: it says that it comes back", async () => {
    const { built } = slowly();
    await played.hello();
    await turn();
    await played.send({ type: 'error', code: 'GODWIT_TIMEOUT', message: 'too slow', retry: true });
    await turn();
    built.release();
    await played.clock.sleep(5000);
    expect([played.incoming.state, played.vm.abandoned]).toEqual(['active', undefined]);
    expect(played.lost).toMatchObject([{ code: 'GODWIT_TIMEOUT', remote: true }]);
    await played.again();
    await played.hear('welcome');
  });

  test('before it has begun leaves a migration that can be cancelled at its first event', async () => {
    slowly();
    played.incoming.subscribe((event) => {
      if (event.type === 'state' && event.state === 'setup') played.incoming.cancel('enough');
    });
    await played.hello();
    played.link.cut({ delivered: true });
    expect(await played.refused()).toBe('GODWIT_CANCELLED');
  });

  test('leaves a migration that can still be cancelled', async () => {
    const { built } = slowly();
    await played.hello();
    await turn();
    played.link.cut();
    await turn();
    played.incoming.cancel('enough');
    expect(await played.refused()).toBe('GODWIT_CANCELLED');
    built.release();
    await turn();
    expect(played.vm.abandoned).toMatchObject({ code: 'GODWIT_CANCELLED' });
  });
});

test('a source that says nothing more once it is welcome is taken for lost', async () => {
  played = new PlayedSource();
  await played.hello();
  await played.hear('welcome');
  while (played.lost.length === 0 && played.clock.now() < 120_000) await played.clock.sleep(1000);
  expect(played.lost).toMatchObject([
    { code: 'GODWIT_LINK_LOST', message: expect.stringMatching(/^nothing was received from the source/) },
  ]);
  await played.again();
  await played.hear('welcome');
});

test('a link that only fails to carry the welcome is lost as well: the source comes back', async () => {
  const lost = new GodwitError('GODWIT_LINK_LOST', 'EPIPE');
  played = new PlayedSource(100_000, {}, failingOnce('welcome', lost));
  await played.hello();
  await turn();
  await turn();
  expect([played.incoming.state, played.lost]).toEqual(['active', [lost]]);
  await played.again();
  await played.hear('welcome');
});

describe('a source that does not want the VM any more while it is being built', () => {
  const REFUSAL = { type: 'error', code: 'GODWIT_DEVICE_FAILED', message: 'a device', retry: false } as const;

  test.each(['', ' at once'])('is listened to%s: the VM is abandoned when it is there', async (when) => {
    const { built } = slowly();
    await played.hello();
    if (when === '') await turn();
    await played.send(REFUSAL);
    expect(await played.refused()).toBe('GODWIT_DEVICE_FAILED');
    expect(played.vm.abandoned).toBeUndefined();
    built.release();
    await turn();
    expect(played.vm.abandoned).toMatchObject({ code: 'GODWIT_DEVICE_FAILED' });
  });

  test('nor one that breaks the protocol meanwhile', async () => {
    const { built } = slowly();
    await played.hello();
    await turn();
    await played.send(READY[0]);
    expect(await played.refused()).toBe('GODWIT_PROTOCOL');
    built.release();
    await turn();
    expect(played.vm.abandoned).toMatchObject({ code: 'GODWIT_PROTOCOL' });
  });

  test('and a caller who cancels at the first event is too', async () => {
    slowly();
    played.incoming.subscribe((event) => {
      if (event.type === 'state' && event.state === 'setup') played.incoming.cancel('enough');
    });
    await played.hello();
    expect(await played.refused()).toBe('GODWIT_CANCELLED');
  });
});

describe('page channels', () => {
  test('are waited for before the VM is built', async () => {
    const channels = held();
    const calls: string[] = [];
    played = new PlayedSource(
      100_000,
      {
        prepare: () => {
          calls.push('prepare');
          return played.vm;
        },
      },
      through(({ pageChannels }) => ({
        pageChannels: async (...all) => {
          await channels.promise;
          return pageChannels(...all);
        },
      })),
    );
    await played.hello({ pageChannels: 1 });
    await turn();
    expect(calls).toEqual([]);
    channels.release();
    await played.hear('welcome');
    expect(calls).toEqual(['prepare']);
  });

  test('that do not come end the migration', async () => {
    const calls: string[] = [];
    played = new PlayedSource(
      100_000,
      {
        prepare: () => {
          calls.push('prepare');
          return played.vm;
        },
        handshakeTimeoutMs: 3000,
      },
      through(() => ({ pageChannels: () => new Promise(() => {}) })),
    );
    await played.hello({ pageChannels: 1 });
    const [result] = await Promise.allSettled([played.incoming.result]);
    expect(result).toMatchObject({ reason: { code: 'GODWIT_TIMEOUT' } });
    expect(calls).toEqual([]);
  });
});

describe('a VM that is not taken', () => {
  test('a device that cannot be received into now is named', async () => {
    played = new PlayedSource();
    const blocked = Object.assign(new FaultyDevice('uart'), { migrationBlocker: async () => 'no firmware' });
    played.vm.devices = [blocked, new FaultyDevice('rtc')];
    await played.hello();
    expect(await played.refused()).toBe('GODWIT_BLOCKED');
    expect(played.heard.at(-1)).toMatchObject({
      ...{ type: 'error', code: 'GODWIT_BLOCKED' },
      message: 'the destination cannot receive the VM now: device "uart": no firmware',
    });
    expect(played.vm.abandoned).toMatchObject({ code: 'GODWIT_BLOCKED' });
  });

  test.each([
    ['nothing', undefined],
    ['null', null],
    ['a word', 'vm'],
  ])('prepare() that returns %s has failed', async (_, value) => {
    played = new PlayedSource(100_000, { prepare: async () => value as never });
    await played.hello();
    expect(await played.refused()).toBe('GODWIT_PREPARE_FAILED');
    expect(played.heard.at(-1)).toMatchObject({
      message: `the destination could not build the VM: prepare() must return a MigratableVm, got ${value}`,
    });
  });

  test('prepare() that rejects has failed with its reason; it was given the description and the hello', async () => {
    const given: unknown[] = [];
    played = new PlayedSource(100_000, {
      prepare: async (...all) => {
        given.push(...all);
        throw new Error('no room');
      },
    });
    await played.hello({ description: { cpus: 2 } });
    expect(await played.refused()).toBe('GODWIT_PREPARE_FAILED');
    expect(played.heard.at(-1)).toMatchObject({ message: 'the destination could not build the VM: no room' });
    expect(given).toEqual([{ cpus: 2 }, expect.objectContaining({ type: 'hello', migrationId: ID })]);
  });

  test('one that takes part in another migration is left alone, and the source does not try again', async () => {
    const vm = new ToyVm(BLOCKS, { running: false, devices: [new FaultyDevice('uart'), new FaultyDevice('rtc')] });
    const first = new PlayedSource(100_000, { prepare: () => vm });
    await first.hello();
    await first.hear('welcome');
    played = new PlayedSource(100_000, { prepare: () => vm });
    await played.hello({ migrationId: 'f'.repeat(32) });
    const [result] = await Promise.allSettled([played.incoming.result]);
    expect(result).toMatchObject({
      reason: { code: 'GODWIT_CLAIMED', retry: false, cause: { code: 'GODWIT_CLAIMED' } },
    });
    expect([vm.abandoned, claimOf(vm).migrationId]).toEqual([undefined, ID]);
    first.incoming.cancel();
    await turn();
    await first.control.close();
  });
});

/** A destination that is held up while it looks through the memory of its VM, in which page 5 has contents. */
function looking(): Held {
  played = new PlayedSource();
  const { vm, clock } = played;
  vm.memory.write(0, 5 * PAGE, new Uint8Array(PAGE).fill(1));
  const looked = held();
  let begun = false;
  const [block] = vm.memory.blocks;
  const populated = block?.populated;
  Object.assign(block as object, {
    populated: (range?: PageRun) => {
      begun = true;
      return populated?.(range);
    },
  });
  const pause = clock.yield.bind(clock);
  clock.yield = async () => {
    const first = begun;
    begun = false;
    if (first) await looked.promise;
    await pause();
  };
  return looked;
}

describe('the memory of the VM is looked through before the first page comes', () => {
  test('since it may have been used before, and is claimed meanwhile', async () => {
    const looked = looking();
    const { vm } = played;
    await played.hello();
    await turn();
    expect(played.heardOf('welcome')).toEqual([]);
    expect(claimOf(vm).waitingFor).toEqual(['looking for holes in the memory of the VM']);
    looked.release();
    await played.hear('welcome');
    await played.send(...READY);
    await played.hear('ready');
    expect(vm.memory.blocks[0]?.bytes[5 * PAGE]).toBe(0);
    await played.send(GO);
    await played.hear('running');
  });

  test('and a caller who cancels meanwhile is heard: the source is told before it has come to its end', async () => {
    const looked = looking();
    await played.hello();
    await turn();
    played.incoming.cancel('enough');
    await turn();
    expect([played.heardOf('error'), played.vm.abandoned]).toMatchObject([[{ code: 'GODWIT_CANCELLED' }], undefined]);
    looked.release();
    expect(await played.refused()).toBe('GODWIT_CANCELLED');
    expect(played.vm.abandoned).toMatchObject({ code: 'GODWIT_CANCELLED' });
  });
});

test('encodings whose decoders would keep more than a GiB are refused before a page comes', async () => {
  const codec = () => {
    throw new Error('no page has come');
  };
  const encoding: StreamEncoding = {
    kind: 'stream',
    name: 'hoard',
    expectedMsPerMiB: 1,
    stateBytes: 2 ** 29,
    encoder: codec,
    decoder: codec,
  };
  for (const pageChannels of [2, 3]) {
    played = new PlayedSource(100_000, { encodings: [encoding] });
    await played.hello({ features: ['encoding:hoard'], pageChannels });
    if (pageChannels === 2) {
      await played.hear('welcome');
      played.incoming.cancel();
      await turn();
      await played.control.close();
    } else expect(await played.refused()).toBe('GODWIT_LIMIT_EXCEEDED');
  }
});

test('a source that comes back in an attempt that was given up is refused', async () => {
  played = new PlayedSource();
  await played.hello({ features: ['back'] });
  await played.hear('welcome');
  await played.send(...READY);
  await played.hear('ready');
  await played.send({ type: 'back', attempt: 1 });
  await played.hear('backAck');
  await played.again({ features: ['back'], stage: 'paused', attempt: 1 });
  await played.hear('error');
  expect(played.heardOf('error')).toMatchObject([{ code: 'GODWIT_PROTOCOL' }]);
  await played.again({ features: ['back'], attempt: 2, connection: 3 });
  await played.hear('resumed');
  expect(played.heardOf('resumed')).toMatchObject([{ state: 'receiving', resumeMs: 0, sinceReadyMs: 0 }]);
  expect(played.eventsOf('went-back')).toHaveLength(1);
});

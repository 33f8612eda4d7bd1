import type { OwnershipAuthority } from '@godwit/core';
import { FaultyDevice } from '@godwit/core/testing';
import { afterEach, describe, expect, test } from '@jest/globals';
import { GO, PlayedSource, READY } from './played-source.js';
import { held } from './played-stream.js';

let played: PlayedSource;
afterEach(async () => {
  played.incoming.cancel();
  await played.clock.sleep(1);
  await played.control.close().catch(() => {});
});

type MayRun = OwnershipAuthority['mayRun'];

/** A destination with everything loaded, whose authority answers so. Notes what the authority is asked, and when. */
async function ready(mayRun: MayRun = async () => true) {
  const asked: string[] = [];
  const authority: OwnershipAuthority = {
    transfer: async () => 'granted',
    withdraw: async () => 'withdrawn',
    mayRun: (transfer, role) => {
      asked.push(`${role} in attempt ${transfer.attempt} at ${played.clock.now()}`);
      return mayRun(transfer, role);
    },
  };
  played = new PlayedSource(100_000, { authority });
  await played.hello({ features: ['back'] });
  await played.hear('welcome');
  await played.send(...READY);
  await played.hear('ready');
  return { asked, readyAt: played.clock.now() };
}

const recover = () => played.incoming.recover({ sourceIsDead: true });
const never = () => new Promise<never>(() => {});

describe('recover', () => {
  test('asks the authority for the destination, drops the source while it asks, and starts the guest', async () => {
    const answer = held();
    const { asked, readyAt } = await ready(async () => {
      await answer.promise;
      return true;
    });
    const recovering = recover();
    await played.clock.sleep(1);
    expect([played.incoming.ownership, played.link.openStreams, played.vm.resumes]).toEqual(['recovering', 0, 0]);
    answer.release();
    await recovering;
    await played.incoming.result;
    expect(asked).toEqual([`destination in attempt 1 at ${readyAt}`]);
    expect([played.incoming.ownership, played.vm.running]).toEqual(['recovered', true]);
    // The caller has said that the link is of no use: it is not reported as lost.
    expect(played.lost).toEqual([]);
  });

  test.each<readonly [string, MayRun, string, string]>([
    ['says no', async () => false, 'GODWIT_NOT_OWNER', "says that the guest is not the destination's"],
    ['does not answer', never, 'GODWIT_TIMEOUT', 'the ownership authority has not answered'],
  ])(
    'of an authority that %s starts nothing, and the wait for the source goes on',
    async (_, mayRun, code, message) => {
      const { readyAt } = await ready(mayRun);
      await expect(recover()).rejects.toMatchObject({ code, message: expect.stringContaining(message) });
      expect(played.clock.now() - readyAt).toBe(code === 'GODWIT_TIMEOUT' ? 30_000 : 0);
      expect([played.incoming.ownership, played.vm.resumes]).toEqual(['ready', 0]);
      await played.again({ features: ['back'], stage: 'paused' });
      await played.hear('resumed');
      expect(played.heardOf('resumed')).toMatchObject([{ state: 'ready' }]);
    },
  );

  test('refuses a source that comes back while the guest is being started: it runs here', async () => {
    await ready();
    const started = held();
    played.vm.onResume = () => started.promise;
    await recover();
    await played.again({ features: ['back'], stage: 'paused' });
    await played.hear('error');
    expect(played.heardOf('error')).toMatchObject([
      { code: 'GODWIT_RECOVERED', message: 'the source was declared dead; the guest runs here', retry: false },
    ]);
    started.release();
    await played.incoming.result;
  });

  test('of a guest that cannot be started fails with its reason', async () => {
    await ready();
    played.vm.onResume = () => Promise.reject(new Error('no vCPU'));
    await recover();
    await expect(played.incoming.result).rejects.toMatchObject({
      code: 'GODWIT_VM_FAILED',
      message: 'the guest was handed over, but could not be started at the destination: no vCPU',
    });
  });
});

describe('a source that comes back while everything is loaded', () => {
  test('in an attempt that is not loaded here is dropped', async () => {
    await ready();
    await played.again({ features: ['back'], stage: 'paused', attempt: 2 });
    await played.clock.sleep(1);
    expect(played.lost.at(-1)).toMatchObject({
      code: 'GODWIT_PROTOCOL',
      message: 'the source comes back in attempt 2; 1 is loaded here',
    });
    expect([played.heardOf('resumed'), played.incoming.ownership]).toEqual([[], 'ready']);
  });

  test('and has kept its guest is heard: nobody runs here', async () => {
    await ready();
    await played.again({ features: ['back'], stage: 'kept', attempt: 2 });
    await played.hear('resumed');
    await played.send({ type: 'error', code: 'GODWIT_CANCELLED', message: 'enough', retry: false });
    expect(await played.refused()).toBe('GODWIT_CANCELLED');
  });

  test('and has given the attempt up is received from again', async () => {
    await ready();
    await played.again({ features: ['back'], attempt: 2 });
    await played.hear('resumed');
    expect(played.heardOf('resumed')).toMatchObject([{ state: 'receiving', round: 2 }]);
    expect(played.incoming.ownership).toBe('receiving');
    expect(played.eventsOf('went-back')).toEqual([{ type: 'went-back', attempt: 1 }]);
  });
});

describe('an attempt that is given up while devices load', () => {
  test('is not answered by "ready" when they have loaded', async () => {
    const loaded = held();
    played = new PlayedSource();
    played.vm.devices = [
      Object.assign(new FaultyDevice('uart'), {
        async load(state: AsyncIterable<Uint8Array>) {
          for await (const _ of state);
          await loaded.promise;
        },
        reset: async () => {},
      }),
      Object.assign(new FaultyDevice('rtc'), { reset: async () => {} }),
    ];
    await played.hello({ features: ['back'] });
    await played.hear('welcome');
    await played.send(...READY, { type: 'back', attempt: 1 });
    await played.hear('backAck');
    expect(played.heardOf('backAck')).toEqual([{ type: 'backAck', attempt: 1, deviceResets: [0, 0] }]);
    loaded.release();
    await played.clock.sleep(1);
    expect([played.heardOf('ready'), played.incoming.ownership]).toEqual([[], 'receiving']);
    expect(played.incoming.state).toBe('active');
  });

  test('nor by a destination that was cancelled in the moment in which they had loaded', async () => {
    const loaded = held();
    played = new PlayedSource();
    played.vm.devices = [
      Object.assign(new FaultyDevice('uart'), { load: () => loaded.promise }),
      new FaultyDevice('rtc'),
    ];
    await played.hello();
    await played.hear('welcome');
    await played.send(...READY);
    await played.clock.sleep(1);
    loaded.release();
    played.incoming.cancel('enough');
    expect(await played.refused()).toBe('GODWIT_CANCELLED');
    expect(played.eventsOf('ownership')).toMatchObject([{ ownership: 'abandoned' }]);
  });
});

describe('after "go"', () => {
  test('the authority is asked again, half a second after it has failed, and half a minute after it has not answered', async () => {
    const answers: (() => Promise<boolean>)[] = [() => Promise.reject(new Error('no quorum')), never, async () => true];
    const { asked } = await ready(() => (answers.shift() as () => Promise<boolean>)());
    const before = played.clock.now();
    await played.send(GO);
    await played.hear('running');
    expect(asked).toEqual([0, 500, 31_000].map((ms) => `destination in attempt 1 at ${before + ms}`));
    expect(played.eventsOf('warning').map(({ message }) => message)).toEqual([
      'the ownership authority could not be asked, and is asked again: no quorum',
      'the ownership authority could not be asked, and is asked again: it has not answered within 30000 ms',
    ]);
  });

  test('"released" before the destination has said that the guest runs is no answer: the source comes back', async () => {
    const started = held();
    await ready();
    played.vm.onResume = () => started.promise;
    await played.send(GO, { type: 'released' });
    await played.clock.sleep(1);
    started.release();
    await played.clock.sleep(1);
    expect([played.incoming.ownership, played.vm.running]).toEqual(['running', true]);
    expect(played.lost).toMatchObject([
      { code: 'GODWIT_PROTOCOL', message: 'the source sent "released" before it got "running"' },
    ]);
  });
});

test('a comparison that fails here is no result: the link is dropped, and the source may ask again', async () => {
  played = new PlayedSource();
  await played.hello({ features: ['verify'] });
  await played.hear('welcome');
  await played.send(...READY);
  await played.hear('ready');
  Object.assign(played.vm.memory.blocks[0] as object, {
    populated: () => {
      throw new Error('unmapped');
    },
  });
  await played.send({ type: 'digestsEnd' });
  expect(await played.dropped()).toBe('GODWIT_INTERNAL');
  expect(played.lost.at(-1)?.message).toBe('the comparison failed: unmapped');
  expect(played.heardOf('verified')).toEqual([]);
});

import { ToyVm } from '@godwit/core/testing';
import { expect, test } from '@jest/globals';
import { BLOCKS, expectMoved, expectStayed, start } from './toy-migration.js';

const destinationThat = (prepared: () => Promise<void>): ToyVm =>
  Object.assign(new ToyVm(BLOCKS, { running: false }), { prepared });

test('a destination that cannot be prepared says so to both sides, and the guest was never paused', async () => {
  const destination = destinationThat(() => Promise.reject(new Error('no thread for the vCPU')));
  const toy = start({ destination });
  const ends = await toy.settled();
  expectStayed(toy, ends, 'GODWIT_PREPARE_FAILED');
  expect(ends.receivedCode).toBe('GODWIT_PREPARE_FAILED');
  expect(ends.sent).toMatchObject({ reason: { message: expect.stringContaining('no thread for the vCPU') } });
  expect(toy.source.pauses).toBe(0);
  expect(destination.abandoned).toMatchObject({ code: 'GODWIT_PREPARE_FAILED' });
});

test('the guest is paused only once the destination is prepared', async () => {
  let ready = false;
  const destination = destinationThat(async () => {
    await toy.clock.sleep(700);
    ready = true;
  });
  const toy = start({ destination });
  toy.source.onPause = () => expect(ready).toBe(true);
  expectMoved(toy, await toy.settled());
  expect(toy.clock.now()).toBeGreaterThanOrEqual(700);
});

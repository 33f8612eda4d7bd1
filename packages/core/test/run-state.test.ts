import type { MigrateOptions, RunState } from '@godwit/core';
import { FaultyDevice, ToyVm } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { BLOCKS, expectMoved, expectStayed, filledVm, start, switchAfter } from './toy-migration.js';

const arriving = () => new ToyVm(BLOCKS, { running: false });

/** A guest that its user has paused. */
function paused(): ToyVm {
  const vm = filledVm();
  vm.running = false;
  return vm;
}

describe('a guest that its user has paused', () => {
  test('stays so: it moves, and runs at neither end', async () => {
    const toy = start({ source: paused(), destination: arriving() });
    const { sent, received, code, receivedCode } = await toy.settled();
    expect([code, receivedCode]).toEqual([undefined, undefined]);
    expect(toy.source.memory.firstDifference(toy.destination.memory)).toBeUndefined();
    expect([toy.source.running, toy.destination.running]).toEqual([false, false]);
    expect([toy.source.resumes, toy.destination.resumes]).toEqual([0, 0]);
    // It is paused all the same: a VMM may still have writers besides the vCPUs.
    expect(toy.source.pauses).toBe(1);
    expect(sent).toMatchObject({ value: { runState: 'paused' } });
    expect(received).toMatchObject({ value: { summary: { runState: 'paused' } } });
    expect([toy.migration.ownership, toy.incoming.ownership]).toEqual(['released', 'settled']);
  });

  test.each<readonly [string, MigrateOptions, boolean]>([
    ['cancelled in pre-switchover', { pauseBeforeSwitchover: true }, true],
    ['that fails', {}, false],
  ])('is not run by a migration %s', async (_, migrate, cancelled) => {
    const source = paused();
    const destination = arriving();
    source.devices = [new FaultyDevice('uart', Uint8Array.of(1))];
    const loading = new FaultyDevice('uart');
    if (!cancelled) loading.load = () => Promise.reject(new Error('bad'));
    destination.devices = [loading];
    const toy = start({ source, destination, migrate });
    if (cancelled) {
      await toy.clock.sleep(100);
      expect(toy.migration.state).toBe('pre-switchover');
      toy.migration.cancel();
    }
    const { code } = await toy.settled();
    expect(code).toBe(cancelled ? 'GODWIT_CANCELLED' : 'GODWIT_DEVICE_FAILED');
    expect([source.resumes, source.running, destination.resumes]).toEqual([0, false, 0]);
    expect(source.pauses).toBe(1);
  });
});

describe('what the guest did just before it was paused for the switchover is what moves', () => {
  test.each<readonly [RunState, RunState]>([
    ['running', 'paused'],
    ['paused', 'running'],
  ])('%s at the start, %s then', async (before, after) => {
    const source = before === 'running' ? filledVm() : paused();
    const toy = start({ source, migrate: { policy: switchAfter(3) } });
    toy.migration.subscribe((event) => {
      if (event.type === 'round' && event.round.round === 1) source.running = after === 'running';
    });
    const { code, sent } = await toy.settled();
    expect([code, toy.destination.running]).toEqual([undefined, after === 'running']);
    expect(sent).toMatchObject({ value: { runState: after } });
  });
});

describe('a guest that has ended', () => {
  test('before the migration is refused, and is neither paused nor resumed', async () => {
    const source = filledVm();
    source.ended = true;
    source.running = false;
    const toy = start({ source });
    toy.migration.result.catch(() => toy.incoming.cancel());
    const { code } = await toy.settled();
    expect([code, source.pauses, source.resumes]).toEqual(['GODWIT_GUEST_ENDED', 0, 0]);
  });

  test('while its memory is sent ends the migration: nothing runs anywhere, and nothing is resumed', async () => {
    const source = filledVm();
    const toy = start({ source, migrate: { policy: () => undefined } });
    await toy.clock.sleep(500);
    source.ended = true;
    source.running = false;
    const { code } = await toy.settled();
    expect([code, source.resumes, toy.destination.resumes]).toEqual(['GODWIT_GUEST_ENDED', 0, 0]);
    expect(toy.destination.abandoned).toBeDefined();
    // It is noticed in the middle of pre-copy, and not only when the guest is to be paused.
    expect(toy.clock.now()).toBeLessThan(2000);
    expect(source.pauses).toBe(0);
  });

  test('while it was paused for the switchover is not resumed, when that is given up', async () => {
    const source = filledVm();
    const toy = start({ source, migrate: { pauseBeforeSwitchover: true } });
    await toy.clock.sleep(100);
    expect(toy.migration.state).toBe('pre-switchover');
    source.ended = true;
    toy.migration.cancel();
    const { code } = await toy.settled();
    expect([code, source.resumes]).toEqual(['GODWIT_CANCELLED', 0]);
  });
});

test('a VM that cannot tell counts as running', async () => {
  const source = Object.assign(filledVm(), { runState: undefined });
  const toy = start({ source: source as unknown as ToyVm });
  expectMoved(toy, await toy.settled());
});

test('a guest that ran runs on at the source, when the switchover is given up', async () => {
  const toy = start({ migrate: { pauseBeforeSwitchover: true } });
  await toy.clock.sleep(100);
  toy.migration.cancel();
  expectStayed(toy, await toy.settled(), 'GODWIT_CANCELLED');
  expect([toy.source.pauses, toy.source.resumes]).toEqual([1, 1]);
});

import type { MigrationState } from '@godwit/core';
import { describe, expect, test } from '@jest/globals';
import { expectMoved, start, states, type Toy } from './toy-migration.js';

function atState(wanted: MigrationState) {
  return (toy: Toy, arrived: () => void) => {
    const subscription = toy.migration.subscribe((event) => {
      if (event.type !== 'state' || event.state !== wanted) return;
      subscription.unsubscribe();
      arrived();
    });
  };
}

describe('pauseBeforeSwitchover', () => {
  test('holds with the guest paused, until it is told to proceed', async () => {
    const toy = start({ migrate: { pauseBeforeSwitchover: true, verify: true } });
    const seen: unknown[] = [];
    atState('pre-switchover')(toy, () => {
      void toy.clock.sleep(1234).then(() => {
        seen.push(toy.source.running, toy.migration.state);
        toy.migration.proceed();
      });
    });
    const ends = await toy.settled();
    expectMoved(toy, ends);
    expect(seen).toEqual([false, 'pre-switchover']);
    expect(states(toy.events)).toEqual(['setup', 'active', 'pre-switchover', 'device', 'completed']);
    expect(ends.sent).toMatchObject({ value: { heldMs: 1234, downtimeMs: 0 } });
  });

  test('may be told as soon as it is heard of', async () => {
    const toy = start({ migrate: { pauseBeforeSwitchover: true } });
    atState('pre-switchover')(toy, () => toy.migration.proceed());
    expectMoved(toy, await toy.settled());
  });

  test('proceed in any other state is an error', async () => {
    const toy = start({ migrate: { pauseBeforeSwitchover: true } });
    const invalid = expect.objectContaining({ code: 'GODWIT_INVALID_STATE' });
    expect(() => toy.migration.proceed()).toThrow(invalid);
    atState('pre-switchover')(toy, () => toy.migration.proceed());
    atState('device')(toy, () => expect(() => toy.migration.proceed()).toThrow(invalid));
    expectMoved(toy, await toy.settled());
    expect(() => toy.migration.proceed()).toThrow(invalid);
  });
});

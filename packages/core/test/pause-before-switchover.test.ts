import type { MigrationState } from '@godwit/core';
import { FaultyDevice, ToyVm } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { BLOCKS, expectMoved, filledVm, start, states, type Toy } from './toy-migration.js';

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

  test('goes back when it is not told in time, with the guest running, and waits for its time in the next attempt', async () => {
    const toy = start({ migrate: { pauseBeforeSwitchover: true, preSwitchoverTimeoutMs: 3000, pauseLimitMs: 200 } });
    let held = 0;
    toy.migration.subscribe((event) => {
      if (event.type !== 'state' || event.state !== 'pre-switchover' || ++held < 2) return;
      void toy.clock.sleep(2999).then(() => toy.migration.proceed());
    });
    const ends = await toy.settled();
    expectMoved(toy, ends);
    expect(toy.events.filter(({ type }) => type === 'went-back')).toMatchObject([
      {
        attempt: 1,
        reason: {
          code: 'GODWIT_SWITCHOVER_OVERRAN',
          message: 'proceed() was not called within preSwitchoverTimeoutMs (3000 ms)',
        },
      },
    ]);
    expect([held, toy.source.resumes]).toEqual([2, 1]);
    expect(ends.sent).toMatchObject({ value: { heldMs: 2999 } });
  });

  test('has the pause bounded again once it proceeds', async () => {
    const source = filledVm();
    let saves = 0;
    source.devices = [
      Object.assign(new FaultyDevice('uart'), {
        async *save() {
          if (++saves === 1) await toy.clock.sleep(50_000);
          yield Uint8Array.of(1);
        },
      }),
    ];
    const toy: Toy = start({
      source,
      destination: new ToyVm(BLOCKS, { running: false, devices: [new FaultyDevice('uart')] }),
      migrate: { pauseBeforeSwitchover: true, pauseLimitMs: 200 },
    });
    toy.migration.subscribe((event) => {
      if (event.type !== 'state' || event.state !== 'pre-switchover') return;
      void toy.clock.sleep(1000).then(() => toy.migration.proceed());
    });
    expectMoved(toy, await toy.settled());
    expect(toy.events.filter(({ type }) => type === 'went-back')).toMatchObject([
      { attempt: 1, term: 'deviceMs', elapsedMs: 200, limitMs: 200 },
    ]);
  });
});

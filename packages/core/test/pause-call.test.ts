import type { MigrationEvent } from '@godwit/core';
import { FaultyDevice, ToyVm, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import {
  BLOCKS,
  expectMoved,
  expectStayed,
  filledVm,
  start,
  switchAfter,
  type Toy,
  type ToyOptions,
} from './toy-migration.js';

/** A source whose first `pause` returns only when `over` resolves, and notes its signal. */
function hangingPause(options: ToyOptions = {}) {
  const clock = new VirtualClock();
  const source = filledVm();
  const pause = source.pause.bind(source);
  const signals: AbortSignal[] = [];
  const abortedAtCall: boolean[] = [];
  let asked: () => void = () => {};
  let returns: () => void = () => {};
  const calls = {
    asked: new Promise<void>((resolve) => {
      asked = resolve;
    }),
    over: new Promise<void>((resolve) => {
      returns = resolve;
    }),
  };
  Object.assign(source, {
    pause: async (signal: AbortSignal) => {
      signals.push(signal);
      abortedAtCall.push(signal.aborted);
      asked();
      await pause();
      if (signals.length === 1) await calls.over;
    },
  });
  const toy = start({ clock, source, ...options, migrate: { progressIntervalMs: 0, ...options.migrate } });
  return { toy, source, clock, signals, abortedAtCall, asked: calls.asked, returns };
}

const of = <T extends MigrationEvent['type']>({ events }: Toy, type: T) =>
  events.filter((event): event is Extract<MigrationEvent, { type: T }> => event.type === type);

const OVERRAN = expect.objectContaining({ code: 'GODWIT_SWITCHOVER_OVERRAN' });

describe('a call of pause() that has not returned', () => {
  test('is told to undo itself at the limit, and the next prediction has its time', async () => {
    const { toy, signals, clock, returns } = hangingPause({ migrate: { pauseLimitMs: 200, policy: switchAfter(1) } });
    // Clocks do not begin at 0: what counts is the time since the call.
    const now = clock.now.bind(clock);
    clock.now = () => now() + 100_000;
    toy.migration.subscribe((event) => {
      if (event.type === 'went-back') void clock.sleep(50).then(returns);
    });
    expectMoved(toy, await toy.settled());
    expect([signals[0]?.aborted, signals[0]?.reason]).toEqual([true, OVERRAN]);
    expect(of(toy, 'went-back')).toMatchObject([{ attempt: 1, term: 'pauseMs', limitMs: 200, reason: OVERRAN }]);
    expect(of(toy, 'warning')[0]).toEqual({
      type: 'warning',
      code: 'GODWIT_SWITCHOVER_OVERRAN',
      message: expect.stringContaining('pause() has not returned within pauseLimitMs (200 ms)'),
    });
    const predicted = of(toy, 'round').map(({ round }) => round.prediction.pauseMs);
    expect(Math.max(...predicted)).toBeGreaterThanOrEqual(200);
    expect(Math.max(...predicted)).toBeLessThan(5_000);
  });

  test.each([0, 60_000])('is told to as soon as the link is lost, with a limit of %d ms', async (pauseLimitMs) => {
    const { toy, signals, clock, asked, returns } = hangingPause({ migrate: { pauseLimitMs } });
    await asked;
    await clock.sleep(10);
    expect(signals[0]?.aborted).toBe(false);
    toy.link.cut();
    await clock.sleep(10);
    expect([signals[0]?.aborted, signals[0]?.reason]).toEqual([
      true,
      expect.objectContaining({ code: 'GODWIT_LINK_LOST' }),
    ]);
    returns();
    expectMoved(toy, await toy.settled());
    expect(of(toy, 'went-back')).toMatchObject([{ attempt: 1, term: 'pauseMs', reason: { code: 'GODWIT_LINK_LOST' } }]);
  });

  test('is made with an aborted signal in a migration that is cancelled just before', async () => {
    const { toy, abortedAtCall, returns } = hangingPause({ migrate: { pauseLimitMs: 60_000 } });
    toy.migration.subscribe((event) => {
      if (event.type === 'ownership' && event.ownership === 'paused') toy.migration.cancel();
    });
    const over = toy.settled();
    returns();
    expectStayed(toy, await over, 'GODWIT_CANCELLED');
    expect(abortedAtCall).toEqual([true]);
  });

  test('ends the migration, and does not go back, when the caller cancels as it is told so', async () => {
    const { toy, returns } = hangingPause({ migrate: { pauseLimitMs: 200 } });
    toy.migration.subscribe((event) => {
      if (event.type === 'warning' && event.code === 'GODWIT_SWITCHOVER_OVERRAN') {
        toy.migration.cancel();
        returns();
      }
    });
    expectStayed(toy, await toy.settled(), 'GODWIT_CANCELLED');
    expect(of(toy, 'went-back')).toEqual([]);
  });
});

test('of a guest that has ended in its pause nothing is saved', async () => {
  const source = filledVm();
  const device = new FaultyDevice('uart');
  source.devices = [device];
  source.onPause = () => {
    source.ended = true;
  };
  const toy = start({
    source,
    destination: new ToyVm(BLOCKS, { running: false, devices: [new FaultyDevice('uart')] }),
  });
  const ends = await toy.settled();
  expect([ends.code, device.saves, toy.destination.resumes]).toEqual(['GODWIT_GUEST_ENDED', 0, 0]);
});

test('a guest that is recovered was lost for as long as it was paused', async () => {
  const toy: Toy = start({
    link: {
      fromDestination: (frame, payload) =>
        frame.type === 'running' || frame.type === 'resumed' ? undefined : { frame, payload },
    },
    migrate: { switchoverTimeoutMs: 1000, settleTimeoutMs: 600_000, progressIntervalMs: 0 },
  });
  let pausedAt = 0;
  toy.source.onPause = async () => {
    await toy.clock.sleep(7);
    pausedAt = toy.clock.now();
  };
  await toy.clock.sleep(5000);
  expect([toy.source.running, toy.migration.state]).toEqual([false, 'settling']);
  const { lostMs } = await toy.migration.recover({ destinationIsDead: true });
  expect([lostMs, pausedAt > 0]).toEqual([toy.clock.now() - pausedAt, true]);
  toy.incoming.cancel();
  await toy.settled();
});

import { type ConvergencePolicy, roundCap } from '@godwit/core';
import { ToyVm, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { BLOCKS, expectMoved, filledVm, PAGE, start } from './toy-migration.js';

/** A source that pauses in 40 ms, and can say so before. */
function rehearsing(clock: VirtualClock, rehearse: (signal?: AbortSignal) => Promise<number>) {
  const source = filledVm();
  let calls = 0;
  let pending = 0;
  const overlaps: string[] = [];
  source.onPause = async () => {
    if (pending > 0) overlaps.push('pause');
    await clock.sleep(40);
  };
  const vm = Object.assign(source, {
    rehearsePause: async (signal?: AbortSignal) => {
      calls++;
      if (pending++ > 0) overlaps.push('rehearsal');
      try {
        return await rehearse(signal);
      } finally {
        pending--;
      }
    },
  });
  return { vm, calls: () => calls, overlaps };
}

/** Writes a page every 5 ms while the guest runs. */
async function write(vm: ToyVm, clock: VirtualClock, ms: number): Promise<void> {
  for (let at = 0; at < ms; at += 5) {
    await clock.sleep(5);
    if (vm.running) vm.write(0, (at % 64) * PAGE, Uint8Array.of(at));
  }
}

/** Goes on for so many milliseconds, and then switches over. */
function switchAfterMs(ms: number): ConvergencePolicy {
  return ({ elapsedMs }) =>
    elapsedMs > ms
      ? { action: 'switchover', force: true, reason: 'it is time' }
      : { action: 'continue', reason: 'it is too early' };
}

describe('a pause that is rehearsed while the guest runs', () => {
  test('is predicted from it before the first pause, and is then right', async () => {
    const clock = new VirtualClock();
    const { vm, calls } = rehearsing(clock, async () => {
      await clock.sleep(40);
      return 40;
    });
    const toy = start({ clock, source: vm, link: { latencyMs: 1 }, migrate: { policy: roundCap(12, 'switchover') } });
    void write(vm, clock, 2000);
    expectMoved(toy, await toy.settled());
    const { downtime } = await toy.migration.result;
    expect(downtime.pauseMs).toMatchObject({ predictedMs: 40, actualMs: 40 });
    const { rangeMs } = downtime.pauseMs;
    const away = 1 + 2 / calls();
    expect(rangeMs).toEqual([40 / away, 40 * away]);
    expect(calls()).toBeGreaterThan(1);
  });

  test('eight times soon, then at most every 5 s, and never while pause() or another one is under way', async () => {
    const clock = new VirtualClock();
    const { vm, calls, overlaps } = rehearsing(clock, async () => {
      await clock.sleep(700);
      return 700;
    });
    const toy = start({
      clock,
      source: vm,
      migrate: { policy: switchAfterMs(21_000) },
    });
    void write(vm, clock, 25_000);
    expectMoved(toy, await toy.settled());
    // Eight within the first 6 s, and then one after 5, 10 and 15 s more.
    expect(calls()).toBe(10);
    expect(overlaps).toEqual([]);
  });

  test('when one hangs, the switchover waits with the guest running, and tells it to end', async () => {
    const clock = new VirtualClock();
    let told = false;
    const { vm, overlaps } = rehearsing(clock, async (signal) => {
      const aborted = new Promise<void>((resolve) => {
        signal?.addEventListener('abort', () => resolve(), { once: true });
      });
      await aborted;
      told = true;
      await clock.sleep(300);
      throw signal?.reason;
    });
    const toy = start({ clock, source: vm });
    expectMoved(toy, await toy.settled());
    expect([told, overlaps]).toEqual([true, []]);
    const waits = toy.events.flatMap((event) => (event.type === 'round' ? [event.round.decision.reason] : []));
    expect(waits.some((reason) => reason.includes('rehearsePause() has not returned'))).toBe(true);
    expect(toy.events.filter(({ type }) => type === 'warning')).toEqual([]);
  });

  test.each<readonly [string, () => Promise<number>, RegExp]>([
    ['rejects', async () => Promise.reject(new Error('no such thread')), /no such thread/],
    ['is no number', async () => Number.NaN, /got NaN/],
    ['is negative', async () => -3, /got -3/],
  ])('one that %s is told once, and a guess is used', async (_, rehearse, why) => {
    const clock = new VirtualClock();
    const { vm, calls } = rehearsing(clock, rehearse);
    const toy = start({ clock, source: vm, migrate: { policy: switchAfterMs(12_000) } });
    void write(vm, clock, 15_000);
    expectMoved(toy, await toy.settled());
    const warnings = toy.events.flatMap((event) => (event.type === 'warning' ? [event.message] : []));
    expect(warnings).toEqual([expect.stringMatching(why)]);
    expect(calls()).toBe(1);
    expect((await toy.migration.result).downtime.pauseMs.predictedMs).toBeLessThan(5);
  });

  test('a VM that cannot is not asked', async () => {
    const toy = start({ destination: new ToyVm(BLOCKS, { running: false }) });
    expectMoved(toy, await toy.settled());
    const { pauseMs } = (await toy.migration.result).downtime;
    expect(pauseMs.rangeMs[1] / Math.max(0.01, pauseMs.rangeMs[0])).toBeGreaterThan(20);
  });
});

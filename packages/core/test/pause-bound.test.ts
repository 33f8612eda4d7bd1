import { type Clock, GodwitError } from '@godwit/core';
import { engineParts, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

const { PauseBound, TERM_WORDS } = engineParts;
type PauseTerm = keyof typeof TERM_WORDS;
const TERMS = Object.keys(TERM_WORDS) as PauseTerm[];

const OVERRAN = { code: 'GODWIT_SWITCHOVER_OVERRAN', retry: true };

/** A clock whose timers are all late: none ever fires. */
function lateClock(): Clock & { time: number } {
  return {
    time: 0,
    now() {
      return this.time;
    },
    sleep: () => new Promise(() => {}),
    yield: async () => {},
  };
}

describe('the bound', () => {
  test('is passed when its time is up, and says what was under way, and for how long', async () => {
    const clock = new VirtualClock();
    await clock.sleep(5);
    const bound = new PauseBound(clock, 500);
    // `pause` itself does not count.
    bound.enter('pauseMs');
    await clock.sleep(1000);
    bound.run();
    await clock.sleep(400);
    bound.enter('deviceMs');
    await clock.sleep(99);
    expect([bound.signal.aborted, bound.elapsedMs, bound.term]).toEqual([false, 499, { name: 'deviceMs', ms: 99 }]);
    bound.check();
    await clock.sleep(1);
    expect(bound.signal.reason).toMatchObject({
      ...OVERRAN,
      message:
        'the guest has been paused for 500 ms, and pauseLimitMs is 500 ms; under way: saving and sending device state, ' +
        'for 100 ms. The guest runs on at the source, and pre-copy goes on',
    });
    expect(() => bound.check()).toThrow(bound.signal.reason as Error);
    expect(clock.sleepers).toBe(0);
  });

  test('stands still while it is held', async () => {
    const clock = new VirtualClock();
    const bound = new PauseBound(clock, 100);
    bound.run();
    await clock.sleep(60);
    bound.hold();
    // Nothing of it is left meanwhile, and a second call says nothing new.
    expect(clock.sleepers).toBe(0);
    bound.hold();
    await clock.sleep(10_000);
    bound.check();
    expect([bound.signal.aborted, bound.elapsedMs]).toEqual([false, 60]);
    bound.run();
    bound.run();
    expect(clock.sleepers).toBe(1);
    await clock.sleep(10);
    bound.hold();
    await clock.sleep(10_000);
    bound.run();
    await clock.sleep(29);
    expect([bound.signal.aborted, bound.elapsedMs]).toEqual([false, 99]);
    await clock.sleep(1);
    expect([bound.signal.aborted, bound.elapsedMs]).toEqual([true, 100]);
  });

  test.each([
    [100, false],
    [100.5, true],
  ])('is checked against the clock where its timer is late (%f ms of 100: passed %p)', (ms, passed) => {
    const clock = lateClock();
    const bound = new PauseBound(clock, 100);
    bound.enter('ramMs');
    bound.run();
    clock.time = ms;
    expect(bound.signal.aborted).toBe(false);
    if (passed) expect(() => bound.check()).toThrow(expect.objectContaining(OVERRAN));
    else bound.check();
    // What has passed counts on over a hold.
    bound.hold();
    clock.time += 10_000;
    expect(bound.elapsedMs).toBe(ms);
    if (passed) expect(() => bound.check()).toThrow(/sending the last pages, for 10101 ms/);
    else bound.check();
  });

  test('that is given up aborts with that reason, once', async () => {
    const clock = new VirtualClock();
    const bound = new PauseBound(clock, 100);
    bound.run();
    const reason = new GodwitError('GODWIT_LINK_LOST', 'the cable');
    bound.giveUp(reason);
    bound.giveUp(new GodwitError('GODWIT_CANCELLED', 'later'));
    await clock.sleep(200);
    expect(bound.signal.reason).toBe(reason);
    expect(() => bound.check()).toThrow(reason);
  });

  test('of 0 has no end and no timer, and counts', async () => {
    const clock = new VirtualClock();
    const bound = new PauseBound(clock, 0);
    bound.run();
    expect(clock.sleepers).toBe(0);
    await clock.sleep(1e6);
    bound.check();
    expect([bound.signal.aborted, bound.elapsedMs, bound.limitMs]).toEqual([false, 1e6, 0]);
    bound.hold();
    await clock.sleep(10);
    expect(bound.elapsedMs).toBe(1e6);
  });
});

test('over any sequence of steps, what counts is the time in which it runs', async () => {
  const step = fc.oneof(
    { weight: 3, arbitrary: fc.record({ kind: fc.constant('run' as const) }) },
    { weight: 3, arbitrary: fc.record({ kind: fc.constant('hold' as const) }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('enter' as const), term: fc.constantFrom(...TERMS) }) },
    { weight: 4, arbitrary: fc.record({ kind: fc.constant('sleep' as const), ms: fc.nat({ max: 50 }) }) },
  );
  await fc.assert(
    fc.asyncProperty(
      fc.array(step, { minLength: 10, maxLength: 30 }),
      fc.integer({ min: 1, max: 250 }),
      async (steps, limitMs) => {
        const clock = new VirtualClock();
        const bound = new PauseBound(clock, limitMs);
        let running = false;
        let counted = 0;
        let term: PauseTerm = 'pauseMs';
        let termMs = 0;
        let overran: { readonly term: PauseTerm; readonly ms: number } | undefined;
        for (const one of steps) {
          if (one.kind === 'run' || one.kind === 'hold') {
            running = one.kind === 'run';
            bound[one.kind]();
          } else if (one.kind === 'enter') {
            [term, termMs] = [one.term, 0];
            bound.enter(one.term);
          } else {
            if (running && counted < limitMs && counted + one.ms >= limitMs) {
              overran = { term, ms: termMs + limitMs - counted };
            }
            if (running) counted += one.ms;
            termMs += one.ms;
            await clock.sleep(one.ms);
          }
          expect([bound.elapsedMs, bound.term]).toEqual([counted, { name: term, ms: termMs }]);
          expect(bound.signal.aborted).toBe(overran !== undefined);
        }
        if (overran !== undefined) {
          const { message } = bound.signal.reason as GodwitError;
          expect(message).toContain(`paused for ${limitMs} ms`);
          expect(message).toContain(`${TERM_WORDS[overran.term]}, for ${overran.ms} ms.`);
        }
        bound.hold();
        expect(clock.sleepers).toBe(0);
      },
    ),
    { numRuns: 100 },
  );
});

import { getEventListeners } from 'node:events';
import { ERROR_CODES, type ErrorCode, GodwitError } from '@godwit/core';
import { engineParts, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

const { keepTrying, mayRetry } = engineParts;
type Stage = engineParts.RetryStage;

const STAGES: readonly Stage[] = ['connecting', 'connected', 'greeting', 'after-go'];
const passing = (code: ErrorCode = 'GODWIT_LINK_LOST') => new GodwitError(code, 'it may pass', { retry: true });

/** For each code, where the same is tried again: with `retry`, and without. C: connecting, U: connected (in use), G, A. */
const NOTICED_HERE: Readonly<Record<ErrorCode, readonly [retry: string, final: string]>> = {
  GODWIT_INVALID_ARGUMENT: ['CGA', 'A'],
  GODWIT_INVALID_STATE: ['CGA', 'A'],
  GODWIT_CANCELLED: ['CGA', 'A'],
  GODWIT_LINK_LOST: ['CUGA', 'A'],
  GODWIT_CONNECT_FAILED: ['CGA', 'A'],
  GODWIT_TIMEOUT: ['CGA', 'A'],
  GODWIT_BAD_STREAM: ['CGA', 'GA'],
  GODWIT_PROTOCOL: ['CGA', 'GA'],
  GODWIT_VERSION_MISMATCH: ['CGA', 'A'],
  GODWIT_PAGE_SIZE_MISMATCH: ['CGA', 'A'],
  GODWIT_MEMORY_MISMATCH: ['CGA', 'A'],
  GODWIT_DEVICE_MISMATCH: ['CGA', 'A'],
  GODWIT_OUT_OF_RANGE: ['CGA', 'GA'],
  GODWIT_LIMIT_EXCEEDED: ['CGA', 'GA'],
  GODWIT_DEVICE_FAILED: ['CGA', 'A'],
  GODWIT_NOT_CONVERGING: ['CGA', 'A'],
  GODWIT_TRACKER_FAILED: ['CGA', 'A'],
  GODWIT_VM_FAILED: ['CGA', 'A'],
  GODWIT_PREPARE_FAILED: ['CGA', 'A'],
  GODWIT_VERIFY_FAILED: ['CGA', 'A'],
  GODWIT_OWNERSHIP_UNKNOWN: ['CGA', 'A'],
  GODWIT_RECORDING_FAILED: ['CGA', 'A'],
  GODWIT_UNKNOWN_MIGRATION: ['CGA', 'A'],
  GODWIT_RECOVERED: ['CGA', 'A'],
  GODWIT_INTERNAL: ['CGA', 'A'],
  GODWIT_SYSCALL: ['CGA', ''],
  GODWIT_UNSUPPORTED: ['CGA', 'A'],
  GODWIT_DEVICE_BUSY: ['CGA', 'A'],
  GODWIT_PERMISSION: ['CGA', 'A'],
  GODWIT_OUT_OF_MEMORY: ['CGA', 'A'],
  GODWIT_GUEST_CRASHED: ['CGA', 'A'],
  GODWIT_CLAIMED: ['CGA', 'A'],
  GODWIT_HANDED_OVER: ['CGA', 'A'],
  GODWIT_GUEST_ENDED: ['CGA', 'A'],
  GODWIT_SHARED_MEMORY: ['CGA', 'A'],
  GODWIT_BLOCKED: ['CGA', 'A'],
  GODWIT_SWITCHOVER_OVERRAN: ['CGA', 'A'],
  GODWIT_NOT_OWNER: ['CGA', 'A'],
  GODWIT_ESTIMATE_EXCEEDED: ['CGA', 'A'],
  GODWIT_PAGES_MISSING: ['CGA', 'A'],
};
const LETTERS: Readonly<Record<string, Stage>> = { C: 'connecting', U: 'connected', G: 'greeting', A: 'after-go' };
const stagesOf = (letters: string) => [...letters].map((letter) => LETTERS[letter] as Stage);

describe('whether a migration goes on over another connection', () => {
  test.each(ERROR_CODES)('after %s', (code) => {
    const [retry, final] = NOTICED_HERE[code];
    const tried = (options: object) => STAGES.filter((stage) => mayRetry(new GodwitError(code, '', options), stage));
    expect(tried({ retry: true })).toEqual(stagesOf(retry));
    expect(tried({ retry: false })).toEqual(stagesOf(final));
    // The peer has the word, at every stage.
    expect(tried({ retry: true, remote: true })).toEqual(STAGES);
    expect(tried({ retry: false, remote: true })).toEqual([]);
  });

  test.each(STAGES)('not after an exception of unknown origin, while it is %s', (stage) => {
    for (const error of [new Error('odd'), new TypeError('odd'), undefined, { code: 'GODWIT_LINK_LOST', retry: true }])
      expect(mayRetry(error, stage)).toBe(false);
  });
});

interface Trial {
  readonly within?: number;
  readonly random?: () => number;
  readonly first?: number;
  readonly giveUpAfter?: number;
  readonly signal?: AbortSignal;
  readonly stage?: Stage;
  /** What the clock says before anything is tried. */
  readonly now?: number;
  /** What the nth attempt, from 1 on, does. Default: fails at once. */
  readonly attempt?: (n: number, clock: VirtualClock, signal: AbortSignal) => Promise<string>;
}

/** Keeps trying; tells what became of it and when each attempt began. */
async function trial(given: Trial) {
  const {
    within = 60_000,
    random = () => 0.5,
    first,
    giveUpAfter,
    signal,
    stage = 'greeting',
    now = 0,
    attempt,
  } = given;
  const clock = new VirtualClock();
  await clock.sleep(now);
  const began: number[] = [];
  const failures: [string, number][] = [];
  const over = signal ?? new AbortController().signal;
  const [result] = await Promise.allSettled([
    keepTrying(
      async (window) => {
        began.push(clock.now());
        if (attempt !== undefined) return attempt(began.length, clock, window);
        throw new GodwitError('GODWIT_LINK_LOST', `attempt ${began.length}`);
      },
      {
        ...{ clock, random, withinMs: within, signal: over, stage },
        ...(first !== undefined && { firstPauseMs: first }),
        ...(giveUpAfter !== undefined && { giveUpAfterMs: giveUpAfter }),
        onFailure: ({ message }, n) => void failures.push([message, n]),
      },
    ),
  ]);
  expect([clock.sleepers, getEventListeners(over, 'abort').length]).toEqual([0, 0]);
  return { clock, began, failures, result: result as PromiseSettledResult<string> };
}

describe('pauses', () => {
  test('grow from 100 ms to 5 s, each twice the one before', async () => {
    const { began } = await trial({ within: 30_000 });
    expect(began).toEqual([100, 300, 700, 1500, 3100, 6300, 11_300, 16_300, 21_300, 26_300, 29_900]);
  });

  test('begin with what is asked for, none included, and go on with 100 ms', async () => {
    expect((await trial({ within: 1000, first: 0 })).began).toEqual([0, 100, 300, 700, 900]);
    expect((await trial({ within: 1000, first: 50 })).began).toEqual([50, 150, 350, 750, 900]);
  });

  test('are each shortened or lengthened by up to a quarter, and are never before the first attempt that is to be made now', () =>
    fc.assert(
      fc.asyncProperty(
        fc.array(fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }), { minLength: 12 }),
        async (draws) => {
          let drawn = 0;
          const { began } = await trial({ within: 30_000, random: () => draws[drawn++ % draws.length] as number });
          let [at, pause] = [0, 100];
          for (const [n, time] of began.entries()) {
            const share = (time - at) / pause;
            // The last one is made 100 ms before the end.
            if (n === began.length - 1) {
              expect(time).toBe(29_900);
              break;
            }
            // The pause itself, with the nth number that was drawn: 0 is a quarter less, 1 a quarter more.
            expect(share).toBeCloseTo(0.75 + 0.5 * (draws[n % draws.length] as number), 6);
            at = time;
            pause = Math.min(2 * pause, 5000);
          }
          expect(began.length).toBeGreaterThanOrEqual(8);
        },
      ),
      { numRuns: 50 },
    ));
});

describe('the end of it', () => {
  test('comes for any time and any pauses, whatever is lost in rounding', () =>
    fc.assert(
      fc.asyncProperty(
        fc.double({ min: 0, max: 3000, noNaN: true }),
        fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
        async (within, drawn) => {
          const { began, clock } = await trial({ within, random: () => drawn });
          expect(began.length).toBeLessThan(10);
          expect(clock.now()).toBeLessThanOrEqual(Math.max(within, 125));
        },
      ),
      { numRuns: 300 },
    ));

  test('is the first success; failures before it are told, each with its number', async () => {
    const { result, failures, clock } = await trial({
      attempt: async (n) => {
        if (n < 3) throw new GodwitError('GODWIT_TIMEOUT', `no answer ${n}`);
        return 'connected';
      },
    });
    expect(result).toEqual({ status: 'fulfilled', value: 'connected' });
    expect(failures).toEqual([
      ['no answer 1', 1],
      ['no answer 2', 2],
    ]);
    expect(clock.now()).toBe(700);
  });

  test('is a failure for good, at once, which is not told as one that is tried again', async () => {
    const final = new GodwitError('GODWIT_DEVICE_MISMATCH', 'no such device');
    const { result, failures, began } = await trial({ attempt: () => Promise.reject(final) });
    expect([result, failures, began]).toEqual([{ status: 'rejected', reason: final }, [], [100]]);
  });

  test.each<readonly [Stage, number, number]>([
    ['connecting', 1, 1],
    ['connected', 1, 1],
    ['greeting', 4, 1],
    ['after-go', 4, 4],
  ])('is what may not be tried again while it is %s', async (stage, garbled, failed) => {
    const failing = (code: ErrorCode) => () => Promise.reject(new GodwitError(code, 'no'));
    expect((await trial({ within: 1500, stage, attempt: failing('GODWIT_PROTOCOL') })).began).toHaveLength(garbled);
    expect((await trial({ within: 1500, stage, attempt: failing('GODWIT_VM_FAILED') })).began).toHaveLength(failed);
  });

  test('is the failure of the last attempt, which is made 100 ms before the time is up', async () => {
    const { result, began, failures, clock } = await trial({ within: 1500 });
    expect(began).toEqual([100, 300, 700, 1400]);
    expect(result).toMatchObject({ reason: { code: 'GODWIT_LINK_LOST', message: 'attempt 4' } });
    expect([failures.length, clock.now()]).toEqual([4, 1400]);
    // At whatever time it has begun.
    expect((await trial({ within: 1500, now: 10_000 })).began).toEqual([10_100, 10_300, 10_700, 11_400]);
    // The one before it came at that very moment, or later.
    expect((await trial({ within: 800 })).began).toEqual([100, 300, 700]);
    expect((await trial({ within: 801 })).began).toEqual([100, 300, 700, 701]);
  });

  test('is no further attempt after giveUpAfterMs, though one that has begun may last', async () => {
    const { result, began, clock } = await trial({
      giveUpAfter: 400,
      attempt: async (n, time) => {
        if (n === 1) throw passing();
        await time.sleep(20_000);
        return 'late';
      },
    });
    expect([result, began, clock.now()]).toEqual([{ status: 'fulfilled', value: 'late' }, [100, 300], 20_300]);
    expect((await trial({ giveUpAfter: 399 })).began).toEqual([100, 299]);
    expect((await trial({ giveUpAfter: 200 })).began).toEqual([100]);
  });

  test('comes to an attempt that hangs, through its signal: with the failure before it, or that none has ended', async () => {
    const untilAborted = (signal: AbortSignal) =>
      new Promise<never>((_, reject) => signal.addEventListener('abort', () => reject(signal.reason), { once: true }));
    const lost = passing();
    const second = await trial({
      within: 1000,
      attempt: (n, _, signal) => (n === 1 ? Promise.reject(lost) : untilAborted(signal)),
    });
    expect([second.result, second.clock.now()]).toEqual([{ status: 'rejected', reason: lost }, 1000]);
    const first = await trial({ within: 1000, attempt: (_n, _clock, signal) => untilAborted(signal) });
    expect(first.result).toMatchObject({
      reason: { code: 'GODWIT_TIMEOUT', message: 'no attempt came to its end within 1000 ms' },
    });
    expect(first.failures).toEqual([]);
  });

  test.each<readonly [string, number, number]>([
    ['before it began', 0, 0],
    ['in a pause', 50, 0],
    ['in an attempt', 250, 1],
  ])('is the abort of the signal %s', async (_, afterMs, attempts) => {
    const over = new AbortController();
    const reason = new GodwitError('GODWIT_CANCELLED', 'enough');
    if (afterMs === 0) over.abort(reason);
    const { result, began } = await trial({
      signal: over.signal,
      random: () => {
        if (afterMs === 50) queueMicrotask(() => over.abort(reason));
        return 0.5;
      },
      attempt: async (_n, clock) => {
        await clock.sleep(150);
        over.abort(reason);
        // An attempt that fails for another reason does not hide it for long: nothing is tried again.
        throw reason;
      },
    });
    expect([result, began.length]).toEqual([{ status: 'rejected', reason }, attempts]);
  });

  test('after an abort nothing is tried again, though the failure may pass', async () => {
    const over = new AbortController();
    const { began, failures } = await trial({
      signal: over.signal,
      attempt: async () => {
        over.abort(new Error('enough'));
        throw passing();
      },
    });
    expect([began.length, failures]).toEqual([1, []]);
  });
});

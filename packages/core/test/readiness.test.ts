import type { Frame, PreparedFrame } from '@godwit/core';
import { engineParts, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { expectMoved, start, type Toy } from './toy-migration.js';

const { Readiness } = engineParts;
type Connection = Parameters<InstanceType<typeof Readiness>['ask']>[0];

const INCARNATION = '1'.repeat(32);

function connection(write: (frame: Frame) => Promise<void> = async () => {}) {
  const sent: Frame[] = [];
  const link = {
    write: (frame: Frame) => {
      sent.push(frame);
      return write(frame);
    },
  } as unknown as Connection;
  return { link, sent };
}

const prepare = (attempt: number, ...deviceSequences: number[]) => ({ type: 'prepare', attempt, deviceSequences });

const prepared = (attempt: number, ...deviceSequences: number[]): PreparedFrame => ({
  type: 'prepared',
  incarnation: INCARNATION,
  attempt,
  deviceSequences,
});

/** Whether `promise` has resolved once everything that can run has run. */
async function isResolved(promise: Promise<void>): Promise<boolean> {
  let resolved = false;
  void promise.then(() => {
    resolved = true;
  });
  for (let turns = 0; turns < 10; turns++) await Promise.resolve();
  return resolved;
}

describe('a question', () => {
  test('is asked once, and again when the connection, the attempt or the last pieces are others', () => {
    const readiness = new Readiness(new VirtualClock());
    const [one, other] = [connection(), connection()];
    for (let times = 0; times < 3; times++) readiness.ask(one.link, 1, [0, 4]);
    expect(one.sent).toEqual([prepare(1, 0, 4)]);
    readiness.ask(one.link, 1, [0, 5]);
    readiness.ask(one.link, 1, [0, 5]);
    readiness.ask(one.link, 2, [0, 5]);
    readiness.ask(other.link, 2, [0, 5]);
    readiness.ask(other.link, 2, [0, 5, 0]);
    expect(one.sent).toEqual([prepare(1, 0, 4), prepare(1, 0, 5), prepare(2, 0, 5)]);
    expect(other.sent).toEqual([prepare(2, 0, 5), prepare(2, 0, 5, 0)]);
  });

  test('is about the pieces of the moment in which it was asked', () => {
    const readiness = new Readiness(new VirtualClock());
    const { link, sent } = connection();
    const sequences = [3];
    readiness.ask(link, 1, sequences);
    sequences[0] = 4;
    expect(sent).toEqual([prepare(1, 3)]);
    readiness.answered(prepared(1, 3), INCARNATION);
    expect([readiness.isPrepared(link, 1, sequences), readiness.isPrepared(link, 1, [3])]).toEqual([false, true]);
    readiness.ask(link, 1, sequences);
    expect(sent).toEqual([prepare(1, 3), prepare(1, 4)]);
  });

  test('is not asked while its answer holds, and is not asked twice when writing it fails', async () => {
    const readiness = new Readiness(new VirtualClock());
    const { link, sent } = connection(async () => {
      throw new Error('the link is lost');
    });
    readiness.ask(link, 1, [0]);
    await Promise.resolve();
    readiness.ask(link, 1, [0]);
    readiness.answered(prepared(1, 0), INCARNATION);
    readiness.ask(link, 1, [0]);
    expect(sent).toEqual([prepare(1, 0)]);
  });
});

describe('an answer', () => {
  test.each<readonly [string, PreparedFrame]>([
    ['to an earlier attempt', prepared(1, 0, 4)],
    ['to a later attempt', prepared(3, 0, 4)],
    ['to fewer pieces', prepared(2, 0, 3)],
    ['to more pieces', prepared(2, 0, 5)],
    ['about fewer devices', prepared(2, 0)],
    ['about more devices', prepared(2, 0, 4, 0)],
  ])('%s says nothing', async (_, frame) => {
    const clock = new VirtualClock();
    const readiness = new Readiness(clock);
    const { link } = connection();
    readiness.ask(link, 1, [0, 4]);
    readiness.ask(link, 2, [0, 4]);
    const changed = readiness.changed(new AbortController().signal);
    await clock.sleep(7);
    readiness.answered(frame, INCARNATION);
    expect(readiness.isPrepared(link, 2, [0, 4])).toBe(false);
    expect([readiness.waitedMs, await isResolved(changed)]).toEqual([7, false]);
    readiness.answered(prepared(2, 0, 4), INCARNATION);
    expect(readiness.isPrepared(link, 2, [0, 4])).toBe(true);
    expect([readiness.waitedMs, await isResolved(changed)]).toEqual([0, true]);
  });

  test('of another incarnation is a breach of the protocol, and changes nothing', () => {
    const readiness = new Readiness(new VirtualClock());
    const { link } = connection();
    readiness.ask(link, 1, []);
    const other = '2'.repeat(32);
    expect(() => readiness.answered({ ...prepared(1), incarnation: other }, INCARNATION)).toThrow(
      expect.objectContaining({
        code: 'GODWIT_PROTOCOL',
        message: `"prepared" comes from incarnation ${other} of the destination; this one is ${INCARNATION}`,
      }),
    );
    expect(readiness.isPrepared(link, 1, [])).toBe(false);
    readiness.answered(prepared(1), INCARNATION);
    expect(readiness.isPrepared(link, 1, [])).toBe(true);
  });

  test('to nothing, or given again, says nothing', async () => {
    const readiness = new Readiness(new VirtualClock());
    const { link } = connection();
    readiness.answered(prepared(1, 0), INCARNATION);
    expect(readiness.isPrepared(link, 1, [0])).toBe(false);
    readiness.ask(link, 1, [0]);
    readiness.answered(prepared(1, 0), INCARNATION);
    const changed = readiness.changed(new AbortController().signal);
    readiness.answered(prepared(1, 0), INCARNATION);
    expect(await isResolved(changed)).toBe(false);
    readiness.ask(link, 1, [1]);
    readiness.answered(prepared(1, 0), INCARNATION);
    expect(readiness.isPrepared(link, 1, [1])).toBe(false);
    readiness.answered(prepared(1, 1), INCARNATION);
    expect(readiness.isPrepared(link, 1, [1])).toBe(true);
  });

  test('is void for another connection, another attempt (a going back) and other pieces (new ones, or a reset)', () => {
    const readiness = new Readiness(new VirtualClock());
    const [one, other] = [connection(), connection()];
    readiness.ask(one.link, 1, [2, 0]);
    readiness.answered(prepared(1, 2, 0), INCARNATION);
    expect(readiness.isPrepared(one.link, 1, [2, 0])).toBe(true);
    expect([
      readiness.isPrepared(other.link, 1, [2, 0]),
      readiness.isPrepared(one.link, 2, [2, 0]),
      readiness.isPrepared(one.link, 1, [2, 1]),
      readiness.isPrepared(one.link, 1, [0, 0]),
    ]).toEqual([false, false, false, false]);
    // Asked over another connection, it no longer matters to the first one.
    readiness.ask(other.link, 1, [2, 0]);
    readiness.answered(prepared(1, 2, 0), INCARNATION);
    expect(readiness.isPrepared(one.link, 1, [2, 0])).toBe(false);
    expect(readiness.isPrepared(other.link, 1, [2, 0])).toBe(true);
  });
});

describe('waiting', () => {
  test('counts from the first question since the destination was prepared, over all that void it', async () => {
    const clock = new VirtualClock();
    const readiness = new Readiness(clock);
    const [one, other] = [connection(), connection()];
    await clock.sleep(1000);
    expect(readiness.waitedMs).toBe(0);
    readiness.ask(one.link, 1, [0]);
    await clock.sleep(10);
    readiness.ask(one.link, 1, [1]);
    await clock.sleep(10);
    readiness.ask(other.link, 2, [1]);
    await clock.sleep(10);
    expect(readiness.waitedMs).toBe(30);
    readiness.answered(prepared(2, 1), INCARNATION);
    await clock.sleep(1000);
    expect(readiness.waitedMs).toBe(0);
    readiness.ask(other.link, 2, [2]);
    await clock.sleep(5);
    expect(readiness.waitedMs).toBe(5);
  });

  test('ends for everybody at the answer, and for each with its own signal', async () => {
    const readiness = new Readiness(new VirtualClock());
    const { link } = connection();
    readiness.ask(link, 1, []);
    const stop = new AbortController();
    const [stopped, waiting, too] = [
      readiness.changed(stop.signal),
      readiness.changed(new AbortController().signal),
      readiness.changed(new AbortController().signal),
    ];
    expect([await isResolved(stopped), await isResolved(waiting)]).toEqual([false, false]);
    stop.abort();
    expect([await isResolved(stopped), await isResolved(waiting)]).toEqual([true, false]);
    readiness.answered(prepared(1), INCARNATION);
    expect([await isResolved(waiting), await isResolved(too)]).toEqual([true, true]);
    // The answer before is no answer to who waits now.
    expect(await isResolved(readiness.changed(new AbortController().signal))).toBe(false);
  });
});

describe('an answer that is lost with its link', () => {
  test.each([1, 2, 3, 4, 5, 6, 7, 8, 9, 10])(
    'is given over the next one (cut %i steps after it was written)',
    async (steps) => {
      let cut = false;
      const toy: Toy = start({
        link: {
          capacity: 0,
          fromDestination: (frame, payload) => {
            if (frame.type === 'prepared' && !cut) {
              cut = true;
              void (async () => {
                for (let i = 0; i < steps; i++) await Promise.resolve();
                toy.link.cut();
              })();
            }
            return { frame, payload };
          },
        },
      });
      expectMoved(toy, await toy.settled());
      expect(cut).toBe(true);
    },
  );
});

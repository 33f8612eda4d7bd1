import { GodwitError } from '@godwit/core';
import { engineParts, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { held, PlayedStream, watch } from './played-stream.js';

const { CLOSING_MS, closeStreams } = engineParts;

const error = new GodwitError('GODWIT_BLOCKED', 'the device "gpu" cannot be migrated', { cause: new Error('secret') });
const MESSAGE = { error, retry: true };

function streams() {
  return { clock: new VirtualClock(), control: new PlayedStream(), page: new PlayedStream() };
}

describe('the closing message', () => {
  test('is said on the control stream alone, before it is closed; page channels are closed', async () => {
    const { clock, control, page } = streams();
    for (const stream of [control, page]) stream.arrive(null);
    await expect(closeStreams([control, page], clock, MESSAGE)).resolves.toBe(true);
    expect(control.calls).toEqual(['write error', 'close', 'abort']);
    expect(page.calls).toEqual(['close', 'abort']);
    // Its code, its words and whether to come back: nothing else of the error leaves this process.
    expect(control.written).toEqual([{ type: 'error', code: error.code, message: error.message, retry: true }]);
    expect([clock.now(), clock.sleepers]).toEqual([0, 0]);
  });

  test('is not said where there is none, and counts as taken', async () => {
    const { clock, control, page } = streams();
    for (const stream of [control, page]) stream.arrive(null);
    await expect(closeStreams([control, page], clock, undefined)).resolves.toBe(true);
    expect(control.calls).toEqual(['close', 'abort']);
    expect(control.aborted).toMatchObject({ code: 'GODWIT_LINK_LOST', message: 'the migration is over' });
  });

  test('needs no stream at all', async () => {
    const { clock } = streams();
    await expect(closeStreams([], clock, undefined)).resolves.toBe(true);
    await expect(closeStreams([], clock, MESSAGE)).resolves.toBe(false);
  });

  test('that the carrier refuses is not taken, and rejects nobody', async () => {
    const { clock, control } = streams();
    control.taken = Promise.reject(new GodwitError('GODWIT_LINK_LOST', 'cut'));
    control.closed = Promise.reject(new Error('cut'));
    await expect(closeStreams([control], clock, MESSAGE)).resolves.toBe(false);
    expect(clock.now()).toBe(0);
  });
});

describe('a peer that does not close', () => {
  test.each([
    ['but takes the message', Promise.resolve(), true],
    ['and does not take the message', new Promise<void>(() => {}), false],
  ])('%s is waited for so long, and dropped with the reason', async (_, taken, said) => {
    const { clock, control, page } = streams();
    control.taken = taken;
    page.arrive(null);
    const closing = watch(closeStreams([control, page], clock, MESSAGE));
    await clock.sleep(CLOSING_MS - 1);
    expect([closing.state, control.aborted]).toEqual(['pending', undefined]);
    await clock.sleep(2);
    expect(closing).toEqual({ state: 'resolved', outcome: said });
    for (const stream of [control, page])
      expect(stream.aborted).toMatchObject({ message: `the migration is over: ${error.message}` });
  });

  test('is waited for on every stream, though another one has broken', async () => {
    const { clock, control, page } = streams();
    control.taken = Promise.reject(new Error('cut'));
    control.closed = Promise.reject(new Error('cut'));
    const closing = watch(closeStreams([control, page], clock, MESSAGE));
    await clock.sleep(CLOSING_MS - 1);
    expect([closing.state, page.aborted]).toEqual(['pending', undefined]);
    page.arrive(null);
    await clock.yield();
    expect(closing).toEqual({ state: 'resolved', outcome: false });
  });

  test('is waited for on every stream', async () => {
    const { clock, control, page } = streams();
    control.arrive(null);
    const closing = watch(closeStreams([control, page], clock, MESSAGE));
    await clock.sleep(CLOSING_MS - 1);
    expect(closing.state).toBe('pending');
    page.arrive(null);
    await clock.yield();
    expect(closing.state).toBe('resolved');
  });
});

describe('closing takes', () => {
  test.each([
    ['as long as the peer may take, with nothing to say', undefined, 0, CLOSING_MS],
    ['no longer with a message that is taken on the way', CLOSING_MS, 400, CLOSING_MS],
    ['no longer than the carrier may take for the message', 100, undefined, 100],
    ['no more time after a carrier that took long', 5 * CLOSING_MS, 3 * CLOSING_MS, 3 * CLOSING_MS],
  ])('%s', async (_, acceptedMs, takenMs, expected) => {
    const { clock, control } = streams();
    const start = 7 * CLOSING_MS;
    await clock.sleep(start);
    control.taken = takenMs === undefined ? new Promise(() => {}) : clock.sleep(takenMs);
    const said = await closeStreams([control], clock, acceptedMs === undefined ? undefined : MESSAGE, acceptedMs);
    expect([clock.now() - start, said, clock.sleepers]).toEqual([expected, takenMs !== undefined, 0]);
  });

  test('one turn more when the timer comes before the answer of the carrier, which is then seen', async () => {
    const { clock, control } = streams();
    const carrier = held();
    control.taken = carrier.promise;
    const turn = clock.yield.bind(clock);
    clock.yield = () => {
      carrier.release();
      return turn();
    };
    await expect(closeStreams([control], clock, MESSAGE)).resolves.toBe(true);
    expect(clock.now()).toBe(CLOSING_MS);
  });
});

test('memory that the carrier still reads is waited for without a limit, after the streams were dropped', async () => {
  const { clock, control, page } = streams();
  const carrier = held();
  page.settled = () => {
    expect(page.aborted).toBeDefined();
    return carrier.promise;
  };
  const closing = watch(closeStreams([control, page], clock, undefined));
  await clock.sleep(1000 * CLOSING_MS);
  expect(closing.state).toBe('pending');
  carrier.release();
  await clock.yield();
  expect(closing.state).toBe('resolved');
});

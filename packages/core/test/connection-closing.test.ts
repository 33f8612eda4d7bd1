import { type Frame, GodwitError } from '@godwit/core';
import { engineParts } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { ACK, connect, errorFrame, failed, lost } from './played-connection.js';
import { held, type PlayedStream, watch } from './played-stream.js';

const { CLOSING_MS, remoteError } = engineParts;

describe('closing', () => {
  /** What a peer does with the closing message, and whether it counts as heard. */
  test.each<readonly [string, (control: PlayedStream) => void, boolean]>([
    ['closes its end', (control) => control.arrive(null), true],
    ['says why it ends itself', (control) => control.arrive(errorFrame('GODWIT_CANCELLED')), true],
    ['says nothing', () => {}, false],
    ['is cut off', (control) => control.arrive(lost()), false],
  ])('tells a peer that %s', async (_, answer, heard) => {
    const { control, connection, clock } = connect();
    const closing = connection.close(failed(), true);
    await clock.yield();
    answer(control);
    await expect(closing).resolves.toBe(heard);
    expect(control.written).toEqual([
      { type: 'error', code: 'GODWIT_VM_FAILED', message: 'it would not pause', retry: true },
    ]);
    expect(clock.now()).toBeLessThanOrEqual(2 * CLOSING_MS);
    expect(clock.sleepers).toBe(0);
  });

  test.each<readonly [string, Error | Frame | null | undefined, GodwitError | undefined, boolean]>([
    ['without an error', undefined, undefined, true],
    [
      'for what the peer told',
      errorFrame('GODWIT_TIMEOUT'),
      remoteError({ code: 'GODWIT_TIMEOUT', message: '' }, 'destination'),
      true,
    ],
    [
      'for what the peer told over another link',
      undefined,
      remoteError({ code: 'GODWIT_TIMEOUT', message: '' }, 'destination'),
      true,
    ],
    ['to a peer that cannot be reached', lost(), failed(), false],
    ['to a peer that has closed', null, failed(), false],
  ])('says nothing %s', async (_, comes, error, result) => {
    const { clock, control, connection } = connect();
    if (comes !== undefined) control.arrive(comes);
    await clock.yield();
    await expect(connection.close(error)).resolves.toBe(result);
    expect([control.written, connection.signal.aborted]).toEqual([[], true]);
  });

  test('without an error is told to whoever waits: the link is gone', async () => {
    const { connection } = connect();
    const waiting = watch(connection.ask(ACK, 'ready'));
    await connection.close(undefined);
    expect(connection.signal.reason).toMatchObject({ code: 'GODWIT_LINK_LOST', message: 'the migration is over' });
    expect(waiting).toMatchObject({ state: 'rejected', outcome: connection.signal.reason });
  });

  test.each<readonly [number | undefined, number, boolean]>([
    [undefined, CLOSING_MS, false],
    [5000, 3000, true],
  ])('waits for the carrier to take the message: with %p ms to do so, %i ms', async (acceptedMs, endedAt, heard) => {
    const { clock, control, connection } = connect();
    control.taken = clock.sleep(3000);
    void clock.sleep(2000).then(() => control.arrive(null));
    await expect(connection.close(failed(), false, acceptedMs)).resolves.toBe(heard);
    expect(clock.now()).toBe(endedAt);
  });

  test('has heard a peer that has sent much before it closes', async () => {
    const { connection, control } = connect();
    const closing = connection.close(failed());
    control.arrive(...new Array(100).fill(ACK), null);
    await expect(closing).resolves.toBe(true);
  });

  test('has not been heard by a peer that takes nothing, while its last frame is still handled', async () => {
    const gate = held();
    const { clock, control, connection } = connect({ handle: () => gate.promise });
    control.arrive(ACK);
    await clock.yield();
    control.taken = new Promise(() => {});
    const closing = connection.close(failed());
    await clock.sleep(5 * CLOSING_MS);
    gate.release();
    await expect(closing).resolves.toBe(false);
  });

  test.each([true, false])(
    'a peer whose bytes were wrong is not listened to: the carrier takes the words: %s',
    async (takes) => {
      const { control, connection } = connect();
      control.arrive(new GodwitError('GODWIT_BAD_STREAM', 'no frame'));
      await connection.ended;
      if (!takes) control.taken = new Promise(() => {});
      await expect(connection.close(failed())).resolves.toBe(takes);
    },
  );
});

test('a peer that has closed behind a frame that is still handled has heard', async () => {
  const gate = held();
  const { clock, control, connection } = connect({ handle: () => gate.promise });
  control.arrive(ACK);
  await clock.yield();
  const closing = connection.close(failed());
  control.arrive(null);
  gate.release();
  await expect(closing).resolves.toBe(true);
});

describe('the cause of a failure', () => {
  test('is the first one that was noticed, at once, where it says more than that a stream broke', async () => {
    const { clock, connection } = connect();
    const first = failed();
    await expect(connection.cause(first)).resolves.toBe(first);
    await expect(connection.cause(new Error('odd'))).resolves.toMatchObject({ code: 'GODWIT_INTERNAL' });
    connection.end(first);
    await expect(connection.cause(lost())).resolves.toBe(first);
    expect(clock.now()).toBe(0);
  });

  test('is what the peer tells of a stream that broke, if it does so in time', async () => {
    for (const [afterMs, code] of [
      [CLOSING_MS - 1, 'GODWIT_DEVICE_FAILED'],
      [CLOSING_MS + 1, 'GODWIT_LINK_LOST'],
    ] as const) {
      const { clock, control, connection } = connect();
      const cause = connection.cause(lost());
      await clock.sleep(afterMs);
      control.arrive(errorFrame('GODWIT_DEVICE_FAILED'));
      await expect(cause).resolves.toMatchObject({ code, remote: code === 'GODWIT_DEVICE_FAILED' });
    }
  });

  test('is that the stream broke, where the control stream says no more', async () => {
    const { clock, control, connection } = connect();
    const first = lost('a page channel broke');
    const cause = connection.cause(first);
    control.arrive(new GodwitError('GODWIT_BAD_STREAM', 'no frame'));
    await expect(cause).resolves.toBe(first);
    expect(clock.now()).toBe(0);
  });
});

import { GodwitError } from '@godwit/core';
import { engineParts, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { held, PlayedStream, watch } from './played-stream.js';

const { KEEPALIVE_ID, Pings } = engineParts;

function made() {
  const clock = new VirtualClock();
  const stream = new PlayedStream();
  return { clock, stream, pings: new Pings(stream, clock) };
}

describe('a round trip', () => {
  test('is the time from the ping to the pong with its id, in whatever order those come', async () => {
    const { clock, stream, pings } = made();
    const first = pings.ping();
    await clock.sleep(30);
    const second = pings.ping();
    await clock.sleep(12);
    pings.answered(2);
    await clock.sleep(8);
    pings.answered(1);
    expect(await Promise.all([first, second])).toEqual([50, 12]);
    expect(stream.of('ping').map(({ id }) => id)).toEqual([1, 2]);
  });

  test('that is answered leaves the pings behind it', async () => {
    const { clock, pings } = made();
    const all = [pings.ping(), pings.ping(), pings.ping()];
    for (const id of [1, 2, 3]) {
      await clock.sleep(10);
      pings.answered(id);
    }
    expect(await Promise.all(all)).toEqual([10, 20, 30]);
  });

  test('is ended by no other answer: of a keepalive, of a ping that was never sent, of one that was answered', async () => {
    const { clock, pings } = made();
    const first = pings.ping();
    pings.answered(1);
    await first;
    const second = watch(pings.ping());
    for (const id of [KEEPALIVE_ID, 1, 3, -1]) pings.answered(id);
    await clock.yield();
    expect(second.state).toBe('pending');
    pings.answered(2);
    await clock.yield();
    expect(second.state).toBe('resolved');
  });

  test('never takes the id of a keepalive', async () => {
    const { stream, pings } = made();
    for (let i = 0; i < 10; i++) void pings.ping();
    expect(stream.of('ping').every(({ id }) => id !== KEEPALIVE_ID)).toBe(true);
  });

  test('fails when the ping cannot be written, and when nothing more comes; later ones fail at once, unwritten', async () => {
    const { stream, pings } = made();
    const cut = new GodwitError('GODWIT_LINK_LOST', 'cut');
    const waiting = [pings.ping(), pings.ping()];
    stream.taken = Promise.reject(cut);
    await expect(pings.ping()).rejects.toBe(cut);
    const over = new GodwitError('GODWIT_CANCELLED', 'over');
    pings.fail(over);
    for (const ping of waiting) await expect(ping).rejects.toBe(over);
    await expect(pings.ping()).rejects.toBe(over);
    expect(stream.written).toHaveLength(3);
  });
});

describe('a ping of the peer', () => {
  test('is answered with its id', async () => {
    const { clock, stream, pings } = made();
    for (const id of [5, 0, 2 ** 53 - 1]) {
      pings.answer(id);
      await clock.yield();
    }
    expect(stream.of('pong').map(({ id }) => id)).toEqual([5, 0, 2 ** 53 - 1]);
  });

  test('that comes while an answer waits is answered if it is the latest: one pong is written at a time', async () => {
    const { clock, stream, pings } = made();
    const carrier = held();
    stream.taken = carrier.promise;
    for (let id = 1; id <= 1000; id++) pings.answer(id);
    await clock.yield();
    expect(stream.of('pong').map(({ id }) => id)).toEqual([1]);
    carrier.release();
    await clock.yield();
    expect(stream.of('pong').map(({ id }) => id)).toEqual([1, 1000]);
    // What was answered is not answered again.
    pings.answer(1001);
    await clock.yield();
    expect(stream.of('pong').map(({ id }) => id)).toEqual([1, 1000, 1001]);
  });

  test('whose answer cannot be written rejects nobody, and no further pong is written', async () => {
    const { clock, stream, pings } = made();
    stream.taken = Promise.reject(new GodwitError('GODWIT_LINK_LOST', 'cut'));
    pings.answer(1);
    pings.answer(2);
    await clock.yield();
    pings.answer(3);
    await clock.yield();
    expect(stream.of('pong')).toHaveLength(1);
  });
});

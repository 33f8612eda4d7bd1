import { getEventListeners } from 'node:events';
import { ERROR_CODES, type Frame, GodwitError, type SourcePhaseName } from '@godwit/core';
import { engineParts } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { ACK, connect, DEVICE, errorFrame, failed, LOADED, lost, type Parts, READY } from './played-connection.js';
import { held, PlayedStream, watch } from './played-stream.js';

const { CLOSING_MS, isLost, remoteError } = engineParts;

describe('frames that come', () => {
  test('are handled in order, the next one when the one before it was', async () => {
    const gate = held();
    const handled: string[] = [];
    const { clock, control } = connect({
      handle: ({ frame }) => {
        handled.push(frame.type);
        return frame.type === 'roundAck' ? gate.promise : undefined;
      },
    });
    control.arrive(ACK, LOADED);
    await clock.yield();
    expect([handled, control.reads]).toEqual([['roundAck'], 1]);
    gate.release();
    await clock.yield();
    expect([handled, control.reads]).toEqual([['roundAck', 'loaded'], 3]);
  });

  test('are not handled before the maker of the connection has it', async () => {
    let known = false;
    const early: boolean[] = [];
    const control = new PlayedStream();
    control.arrive(ACK);
    const { clock } = connect({ control, handle: () => void early.push(known) });
    known = true;
    await clock.yield();
    expect(early).toEqual([true]);
  });

  test('are judged by the phase of this moment; an illegal one ends the connection', async () => {
    let phase: SourcePhaseName = 'pre-copy';
    const { clock, control, connection, handled } = connect({ phase: () => phase });
    control.arrive(ACK);
    await clock.yield();
    phase = 'loading';
    control.arrive(ACK, READY);
    const reason = await connection.ended;
    expect(reason).toMatchObject({
      code: 'GODWIT_PROTOCOL',
      message: 'the destination sent "roundAck" on the control stream in phase "loading"',
    });
    expect(handled).toEqual(['roundAck']);
    expect([connection.failure, connection.signal.reason]).toEqual([reason, reason]);
    await clock.yield();
    expect(control.reads).toBe(2);
  });

  test('ping and pong are answered in every phase, and are handed to nobody', async () => {
    const { clock, control, connection, handled } = connect({ phase: () => 'release' });
    const asked = connection.ping();
    control.arrive({ type: 'ping', id: 7 }, { type: 'pong', id: 1 });
    await expect(asked).resolves.toBe(0);
    await clock.yield();
    expect([control.of('pong'), handled]).toEqual([[{ type: 'pong', id: 7 }], []]);
  });

  test('go to another part of the role once it serves', async () => {
    const { clock, control, connection, handled } = connect();
    const later: string[] = [];
    connection.serve(
      () => 'loading',
      ({ frame }) => void later.push(frame.type),
    );
    control.arrive(READY);
    await clock.yield();
    expect([handled, later]).toEqual([[], ['ready']]);
  });

  test('after the end are ignored, payload and all; the reason that the peer tells is not', async () => {
    const { clock, control, connection, handled } = connect();
    connection.end(lost());
    control.arrive({ frame: DEVICE, payloadBytes: 1 }, READY, { type: 'ping', id: 1 });
    await clock.yield();
    expect([handled, control.skipped, control.written]).toEqual([[], 1, []]);
    control.arrive(errorFrame('GODWIT_DEVICE_FAILED'));
    await expect(connection.ended).resolves.toMatchObject({
      ...{ code: 'GODWIT_DEVICE_FAILED', remote: true, message: 'the destination failed: out of luck' },
    });
  });

  test('after the end are read one after the other, each once the payload before it was skipped', async () => {
    const { clock, control, connection } = connect();
    const skipping = held();
    control.skipPayload = () => skipping.promise;
    connection.end(lost());
    control.arrive({ frame: DEVICE, payloadBytes: 5 }, READY);
    await clock.yield();
    expect(control.reads).toBe(1);
    skipping.release();
    await clock.yield();
    expect(control.reads).toBe(3);
  });

  test.each([
    ['source', 'destination'],
    ['destination', 'source'],
  ] as const)('to the %s end with the close of the %s, which is named', async (role, peer) => {
    const { control, connection } = connect({ role } as unknown as Partial<Parts>);
    control.bytesRead = 1;
    control.arrive(null);
    expect((await connection.ended).message).toBe(`the ${peer} closed the connection`);
  });

  test('what the handler throws is the reason', async () => {
    const { control, connection } = connect({
      handle: () => {
        throw failed();
      },
    });
    control.arrive(ACK);
    await expect(connection.ended).resolves.toMatchObject({ code: 'GODWIT_VM_FAILED' });
  });
});

describe('the end', () => {
  test('has one reason, the first, on the signal and for whoever waits', async () => {
    const { clock, control, connection } = connect();
    const waiting = watch(connection.expect('ready'));
    const first = failed();
    connection.end(first);
    connection.end(lost());
    control.arrive(null);
    await clock.yield();
    expect(connection.signal.reason).toBe(first);
    expect(connection.failure).toMatchObject({
      message:
        'the destination closed the connection without a word: compare address and transport of both sides (a TLS port refuses plain TCP), and see its log',
    });
    expect(waiting).toMatchObject({ state: 'rejected', outcome: connection.failure });
  });

  test.each(['write', 'ask', 'ping'] as const)('comes to %s at once, though the carrier hangs', async (call) => {
    const { clock, control, connection } = connect();
    control.taken = new Promise(() => {});
    const calls = {
      write: () => connection.write(ACK),
      ask: () => connection.ask(ACK, 'ready'),
      ping: () => connection.ping(),
    };
    const seen = watch(calls[call]());
    await clock.yield();
    expect(seen.state).toBe('pending');
    const reason = failed();
    connection.end(reason);
    await clock.yield();
    expect(seen).toEqual({ state: 'rejected', outcome: reason });
  });

  test('comes with a signal that is followed, in the same tick, and leaves nothing with it', async () => {
    const over = new AbortController();
    const { connection } = connect({ signal: over.signal });
    const other = connect({ signal: over.signal }).connection;
    other.end(lost());
    expect(getEventListeners(over.signal, 'abort')).toHaveLength(1);
    const reason = failed();
    over.abort(reason);
    expect(connection.signal.reason).toBe(reason);
    expect(connect({ signal: over.signal }).connection.signal.reason).toBe(reason);
    expect(getEventListeners(over.signal, 'abort')).toEqual([]);
  });

  test('reaches page channels that are attached after it, and not those before', () => {
    const { connection } = connect();
    const [before, after] = [new PlayedStream(), new PlayedStream()];
    connection.attach([before]);
    const reason = lost();
    connection.end(reason);
    expect(before.aborted).toBeUndefined();
    connection.attach([after]);
    expect(after.aborted).toBe(reason);
  });

  test('the last stream may be the urgent one, which is no page channel', () => {
    const { control, connection } = connect();
    const [page, urgent] = [new PlayedStream(), new PlayedStream()];
    connection.attach([page, urgent]);
    expect([connection.pageChannels, connection.urgent]).toEqual([[page, urgent], undefined]);
    connection.attach([page, urgent], true);
    expect(connection.pageChannels).toEqual([page]);
    expect(connection.urgent).toBe(urgent);
    expect(connection.streams).toEqual([control, page, urgent]);
    connection.attach([urgent], true);
    expect([connection.pageChannels, connection.streams]).toEqual([[], [control, urgent]]);
  });

  test('bytes are counted over all streams', () => {
    const { control, connection } = connect();
    const page = Object.assign(new PlayedStream(), { bytesRead: 10, bytesWritten: 200 });
    Object.assign(control, { bytesRead: 1, bytesWritten: 2 });
    connection.attach([page]);
    expect([connection.bytesRead, connection.bytesWritten, connection.streams]).toEqual([11, 202, [control, page]]);
  });
});

describe('answers that are waited for', () => {
  test('go to whoever waits for the type, once', async () => {
    const { connection } = connect();
    const either = connection.expect('welcome', 'resumed');
    const ready = watch(connection.expect('ready'));
    const welcome = { type: 'welcome' } as Frame;
    expect([connection.answer(LOADED), connection.answer(welcome), connection.answer(welcome)]).toEqual([
      ...[false, true, false],
    ]);
    await expect(either).resolves.toBe(welcome);
    expect(ready.state).toBe('pending');
  });

  test('are waited for by one; where nobody waits any more, the next may', async () => {
    const { connection } = connect();
    const first = watch(connection.expect('welcome', 'resumed'));
    await expect(connection.expect('resumed')).rejects.toMatchObject({
      code: 'GODWIT_INVALID_STATE',
      message: 'already waiting for "welcome" or "resumed"',
    });
    connection.forget('ready');
    await expect(connection.expect('welcome')).rejects.toMatchObject({ code: 'GODWIT_INVALID_STATE' });
    connection.forget('resumed');
    const second = connection.expect('welcome');
    expect(connection.answer({ type: 'welcome' } as Frame)).toBe(true);
    await second;
    expect(first.state).toBe('pending');
  });

  test('are asked for: the question is written, and fails where it cannot be', async () => {
    const { control, connection } = connect({
      phase: () => 'loading',
      handle: ({ frame }) => void connection.answer(frame),
    });
    const question: Frame = { type: 'switchover', round: 1, attempt: 1, runState: 'running' };
    const answer = connection.ask(question, 'ready');
    expect(control.written).toEqual([question]);
    control.arrive(READY);
    await expect(answer).resolves.toBe(READY);
    const cut = lost();
    control.taken = Promise.reject(cut);
    await expect(connection.ask(question, 'ready')).rejects.toBe(cut);
  });

  test('of a stream that has failed never come', async () => {
    const { control, connection } = connect();
    const failure = lost();
    const waiting = watch(connection.expect('ready'));
    control.arrive(failure);
    await connection.ended;
    await expect(connection.expect('ready')).rejects.toBe(failure);
    await expect(connection.ping()).rejects.toBe(failure);
    expect([waiting.state, connection.answer(READY), control.written]).toEqual(['rejected', false, []]);
  });
});

describe('guest memory that is borrowed', () => {
  test('keeps the connection from being idle, whatever becomes of the work, and work that began meanwhile too', async () => {
    const { clock, connection } = connect();
    const [one, two] = [held(), held()];
    const working = connection.borrow(one.promise.then(() => Promise.reject(failed())));
    const idle = watch(connection.idle());
    const later = one.promise.then(() => void connection.borrow(two.promise));
    one.release();
    await expect(working).rejects.toMatchObject({ code: 'GODWIT_VM_FAILED' });
    await later;
    await clock.yield();
    expect(idle.state).toBe('pending');
    two.release();
    await clock.yield();
    expect(idle.state).toBe('resolved');
  });

  test.each(
    (['drop', 'close'] as const).flatMap((by) => (['handler', 'carrier'] as const).map((last) => [by, last] as const)),
  )('is given back before %s resolves, by the %s too', async (by, last) => {
    const gates = { handler: held(), carrier: held() };
    const { clock, control, connection } = connect({ handle: () => gates.handler.promise });
    const page = Object.assign(new PlayedStream(), { settled: () => gates.carrier.promise });
    connection.attach([page]);
    control.arrive(ACK);
    await clock.yield();
    const reason = lost();
    const over = watch(by === 'drop' ? connection.drop(reason) : connection.close(reason));
    await clock.sleep(10 * CLOSING_MS);
    expect([control.aborted === undefined, page.aborted === undefined, over.state]).toEqual([false, false, 'pending']);
    gates[last === 'handler' ? 'carrier' : 'handler'].release();
    await clock.sleep(10 * CLOSING_MS);
    expect(over.state).toBe('pending');
    gates[last].release();
    await clock.sleep(2 * CLOSING_MS);
    expect([over.state, connection.signal.reason]).toEqual(['resolved', reason]);
  });
});

test('keepalive begins once, with the times of the first call', async () => {
  const pings = async (...later: engineParts.KeepaliveTimes[]) => {
    const { clock, control, connection } = connect();
    for (const times of [{ keepaliveMs: 1000, silenceTimeoutMs: 0 }, ...later]) connection.keepAlive(times);
    await clock.sleep(3500);
    connection.end(lost());
    await clock.yield();
    expect([clock.sleepers, control.aborted]).toEqual([0, undefined]);
    return control.of('ping').length;
  };
  const once = await pings();
  expect(once).toBeGreaterThan(3);
  expect(await pings({ keepaliveMs: 10, silenceTimeoutMs: 20 })).toBe(once);
});

test.each([
  ['source', 'destination'],
  ['destination', 'source'],
] as const)('keepalive of the %s names the %s when that is silent', async (role, peer) => {
  const { clock, control, connection } = connect({ role } as unknown as Partial<Parts>);
  connection.keepAlive({ keepaliveMs: 0, silenceTimeoutMs: 1000 });
  expect((await connection.ended).code).toBe('GODWIT_LINK_LOST');
  expect(control.aborted?.message).toMatch(`nothing was received from the ${peer} for`);
  // Nothing came from the start on, which counts from the start on.
  expect(clock.now()).toBe(1000);
});

test('an error that the peer tells keeps its code where that is known, and whether it may pass', () => {
  for (const code of ERROR_CODES) {
    for (const retry of [true, false])
      expect(remoteError({ code, message: 'm', retry }, 'source')).toMatchObject({
        ...{ code, retry, remote: true, message: 'the source failed: m' },
      });
  }
  expect(remoteError({ code: 'GODWIT_OF_2031', message: 'm' }, 'destination')).toMatchObject({
    ...{
      code: 'GODWIT_INTERNAL',
      remote: true,
      retry: false,
      message: 'the destination failed with GODWIT_OF_2031: m',
    },
  });
});

test('a lost link is one that was noticed here', () => {
  expect([lost(), new GodwitError('GODWIT_LINK_LOST', '', { retry: false })].map(isLost)).toEqual([true, true]);
  const remote = new GodwitError('GODWIT_LINK_LOST', '', { remote: true });
  expect([remote, failed(), new Error('GODWIT_LINK_LOST'), undefined].map(isLost)).toEqual([
    ...new Array(4).fill(false),
  ]);
});

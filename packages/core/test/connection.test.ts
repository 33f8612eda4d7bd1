import { getEventListeners } from 'node:events';
import { ERROR_CODES, type Frame, GodwitError, type SourcePhaseName } from '@godwit/core';
import { engineParts, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { held, PlayedStream, watch } from './played-stream.js';

const { CLOSING_MS, Connection, isLost, remoteError } = engineParts;
type Parts = engineParts.ConnectionParts<'source'>;

const ACK: Frame = { type: 'roundAck', round: 1, pages: 2 };
const LOADED: Frame = { type: 'loaded', device: 0, sequence: 1 };
const READY: Frame = { type: 'ready', attempt: 1, loadMs: 0 };
const DEVICE: Frame = { type: 'device', device: 0, sequence: 0, last: true, attempt: 1 };
const errorFrame = (code: string, retry = false): Frame => ({ type: 'error', code, message: 'out of luck', retry });
const lost = (message = 'cut') => new GodwitError('GODWIT_LINK_LOST', message);
const failed = () => new GodwitError('GODWIT_VM_FAILED', 'it would not pause');

function connect(parts: Partial<Parts> = {}) {
  const clock = new VirtualClock();
  const control = new PlayedStream();
  const handled: string[] = [];
  const connection = new Connection<'source'>({
    role: 'source',
    clock,
    control,
    peer: 'played',
    phase: () => 'pre-copy',
    handle: ({ frame }) => void handled.push(frame.type),
    ...parts,
  });
  return { clock, control, connection, handled };
}

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

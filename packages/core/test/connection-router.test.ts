import { getEventListeners } from 'node:events';
import { type Frame, type FrameStream, GodwitError, type HelloFrame, type LinkListener } from '@godwit/core';
import { engineParts, memoryLink, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { HELLO } from './played-source.js';
import { watch } from './played-stream.js';

const { ConnectionRouter, connectionRouter } = engineParts;
type IncomingConnection = engineParts.IncomingConnection;

const id = (n: number) => n.toString(16).padStart(32, '0');
const HANDSHAKE_MS = 1000;
const MAXIMUM_PENDING = 64;

/** A listener that counts how often it is asked, and sources that say hello to it. */
function made() {
  const clock = new VirtualClock();
  const link = memoryLink({ clock, capacity: 64 });
  const accepting = { now: 0 };
  let fail: (error: Error) => void = () => {};
  const broken = new Promise<never>((_, reject) => {
    fail = reject;
  });
  broken.catch(() => {});
  const listener: LinkListener = {
    async accept(signal) {
      accepting.now++;
      try {
        return await Promise.race([link.listener.accept(signal), broken]);
      } finally {
        accepting.now--;
      }
    },
    close: async () => {},
  };
  const router = new ConnectionRouter(listener);
  const next = (migrationId?: string, signal = new AbortController().signal) =>
    router.next({ clock, signal, handshakeTimeoutMs: HANDSHAKE_MS, migrationId });
  /** A connection of a source; what it hears, until it closes. */
  async function connect(...frames: readonly Frame[]): Promise<{ heard: Frame[]; control: FrameStream }> {
    const request = { migrationId: id(0), pageChannels: 0, connection: 1 };
    const { control } = await link.connector.connect(request, new AbortController().signal);
    const heard: Frame[] = [];
    const listen = async () => {
      for (;;) {
        const received = await control.read();
        if (received === null) return void control.close();
        heard.push(received.frame);
      }
    };
    listen().catch(() => {});
    for (const frame of frames) await control.write(frame);
    return { heard, control };
  }
  const source = (n: number, change: Partial<HelloFrame> = {}) => connect({ ...HELLO, migrationId: id(n), ...change });
  return { clock, link, listener, router, next, connect, source, accepting, fail: (error: Error) => fail(error) };
}

const numberOf = ({ hello }: IncomingConnection) => Number.parseInt(hello.migrationId, 16);
const error = (heard: readonly Frame[]) => heard.find((frame) => frame.type === 'error');

describe('a new migration', () => {
  test('goes to the one who waits longest; the order of the sources is kept', async () => {
    const { next, source } = made();
    const waiting = [next(), next(), next()];
    for (const n of [5, 6, 7]) await source(n);
    expect((await Promise.all(waiting)).map(numberOf)).toEqual([5, 6, 7]);
  });

  test('goes to the one who wants just this, though another waits longer; one that nobody wants is held', async () => {
    const { clock, next, source } = made();
    const [any, bound] = [next(), next(id(9))];
    await source(9);
    expect(numberOf(await bound)).toBe(9);
    await source(8);
    expect(numberOf(await any)).toBe(8);
    const other = watch(next(id(3)));
    await source(4);
    await source(5);
    await clock.yield();
    expect(other.state).toBe('pending');
    // Who comes later takes what is held: what it wants, else the first.
    expect(numberOf(await next(id(5)))).toBe(5);
    expect(numberOf(await next())).toBe(4);
  });

  test('whose two connections come in one moment is one migration: the second is to come again', async () => {
    const { clock, next, source } = made();
    const [first, second] = [next(), watch(next())];
    const [, late] = await Promise.all([source(2), source(2, { connection: 2 })]);
    await first;
    await clock.sleep(1);
    expect(error(late.heard)).toMatchObject({ code: 'GODWIT_LIMIT_EXCEEDED', retry: true });
    expect(second.state).toBe('pending');
  });

  test('is taken however many were taken before', async () => {
    const { next, source } = made();
    for (let n = 1; n <= MAXIMUM_PENDING + 2; n++) {
      const waiting = next();
      await source(n);
      expect(numberOf(await waiting)).toBe(n);
    }
  });

  test('that has come leaves no listener behind at the signal of the one who waited', async () => {
    const { clock, next, source } = made();
    const { signal } = new AbortController();
    for (let n = 1; n <= 3; n++) {
      const waiting = next(undefined, signal);
      await source(n);
      await waiting;
    }
    await clock.yield();
    expect(getEventListeners(signal, 'abort')).toEqual([]);
  });

  test('that is held and connects again is one migration: the older connection is told so', async () => {
    const { clock, next, source } = made();
    const other = watch(next(id(1)));
    const first = await source(2);
    await source(2, { connection: 2 });
    await clock.yield();
    expect((await next(id(2))).hello.connection).toBe(2);
    expect(error(first.heard)).toMatchObject({ code: 'GODWIT_LINK_LOST', retry: true });
    const again = watch(next());
    await clock.yield();
    expect([other.state, again.state]).toEqual(['pending', 'pending']);
  });

  test('that is held is dropped when its source goes', async () => {
    const { clock, next, source } = made();
    void next(id(1)).catch(() => {});
    const { control } = await source(2);
    await clock.yield();
    control.abort(new GodwitError('GODWIT_LINK_LOST', 'gone'));
    await clock.sleep(1);
    const taken = watch(next());
    await clock.yield();
    expect(taken.state).toBe('pending');
  });

  test('is refused while 64 wait already, and may come again', async () => {
    const { clock, next, source } = made();
    void next(id(1000)).catch(() => {});
    const sources = [];
    for (let n = 1; n <= MAXIMUM_PENDING + 1; n++) sources.push(await source(n));
    await clock.sleep(1);
    const refused = sources.flatMap(({ heard }, n) => (error(heard) === undefined ? [] : [n + 1]));
    expect(refused).toEqual([MAXIMUM_PENDING + 1]);
    expect(error(sources.at(-1)?.heard ?? [])).toMatchObject({ code: 'GODWIT_LIMIT_EXCEEDED', retry: true });
    for (let n = 1; n <= MAXIMUM_PENDING; n++) expect(numberOf(await next())).toBe(n);
  });

  test.each(['paused', 'handedOver', 'kept'] as const)('that is "%s" cannot begin here', async (stage) => {
    const { clock, next, source } = made();
    const waiting = watch(next());
    const { heard } = await source(2, { stage });
    await clock.sleep(1);
    expect(error(heard)).toMatchObject({ code: 'GODWIT_UNKNOWN_MIGRATION', retry: false });
    expect(waiting.state).toBe('pending');
  });
});

describe('a peer', () => {
  test('that says nothing holds up nobody, and is told why it is given up', async () => {
    const { clock, next, connect, source } = made();
    const waiting = next();
    const silent = await connect();
    await clock.yield();
    await source(3);
    expect(numberOf(await waiting)).toBe(3);
    void next().catch(() => {});
    await clock.sleep(HANDSHAKE_MS + 1);
    expect(error(silent.heard)).toMatchObject({ code: 'GODWIT_TIMEOUT', retry: true });
  });

  test('that says anything but hello is refused', async () => {
    const { clock, next, connect } = made();
    const waiting = watch(next());
    const { heard } = await connect({ type: 'go', attempt: 1 });
    await clock.sleep(1);
    expect(error(heard)).toMatchObject({ code: 'GODWIT_PROTOCOL' });
    expect(waiting.state).toBe('pending');
  });

  test('is refused while 64 others have not said hello', async () => {
    const { clock, next, connect } = made();
    void next().catch(() => {});
    const peers = [];
    for (let n = 0; n <= MAXIMUM_PENDING; n++) peers.push(await connect());
    await clock.sleep(1);
    expect(peers.map(({ heard }) => heard.length)).toEqual([...new Array(MAXIMUM_PENDING).fill(0), 1]);
    expect(error(peers.at(-1)?.heard ?? [])).toMatchObject({ code: 'GODWIT_LIMIT_EXCEEDED', retry: true });
  });
});

describe('a known migration', () => {
  test('has its further connections handed to its taker, until it is finished', async () => {
    const { clock, next, source, router } = made();
    const waiting = next();
    await source(2);
    await waiting;
    const offered: number[] = [];
    router.register(id(2), { offer: ({ hello }) => void offered.push(hello.connection), noMoreConnections: () => {} });
    const other = watch(next());
    await source(2, { connection: 2, stage: 'paused' });
    await clock.yield();
    expect([offered, other.state]).toEqual([[2], 'pending']);
    const reason = new GodwitError('GODWIT_DEVICE_FAILED', 'bad magic');
    router.finish(id(2), { ...OUTCOME, state: 'abandoned', reason });
    const { heard } = await source(2, { connection: 3 });
    await clock.sleep(1);
    expect(error(heard)).toMatchObject({ code: 'GODWIT_DEVICE_FAILED', retry: false });
    expect(offered).toEqual([2]);
  });

  test('that ran here says so to a source that handed over and missed it, and waits for its word', async () => {
    const { clock, next, source, router, accepting } = made();
    const waiting = next();
    await source(7);
    await waiting;
    router.finish(id(2), { ...OUTCOME, state: 'untold' });
    router.register(id(7), { offer: () => {}, noMoreConnections: () => {} });
    const early = await source(2, { stage: 'running' });
    await clock.sleep(1);
    expect(error(early.heard)).toMatchObject({ code: 'GODWIT_PROTOCOL' });
    const { heard, control } = await source(2, { stage: 'handedOver', connection: 2 });
    await clock.yield();
    expect(heard).toEqual([
      expect.objectContaining({ type: 'resumed', state: 'running', resumeMs: 3, sinceReadyMs: 4 }),
    ]);
    router.finish(id(7), { ...OUTCOME, state: 'abandoned', told: true });
    await clock.yield();
    expect(accepting.now).toBe(1);
    await control.write({ type: 'released' });
    await clock.sleep(1);
    // Nobody will ask any more.
    expect(accepting.now).toBe(0);
  });
});

const OUTCOME = { reason: undefined, told: false, incarnation: '1'.repeat(32), resumeMs: 3, sinceReadyMs: 4 } as const;

describe('the listener', () => {
  test('is asked as long as somebody may want a connection, once at a time', async () => {
    const { clock, next, router, accepting } = made();
    const over = new AbortController();
    const waiting = [watch(next(undefined, over.signal)), watch(next(undefined, over.signal))];
    await clock.yield();
    expect(accepting.now).toBe(1);
    const reason = new GodwitError('GODWIT_CANCELLED', 'enough');
    over.abort(reason);
    await clock.yield();
    expect(accepting.now).toBe(0);
    expect(waiting).toEqual([0, 1].map(() => ({ state: 'rejected', outcome: reason })));
    await expect(next(undefined, over.signal)).rejects.toBe(reason);
    expect(getEventListeners(over.signal, 'abort')).toEqual([]);
    router.register(id(1), { offer: () => {}, noMoreConnections: () => {} });
    await clock.yield();
    expect(accepting.now).toBe(1);
    router.finish(id(1), { ...OUTCOME, state: 'abandoned', told: true });
    await clock.yield();
    expect(accepting.now).toBe(0);
  });

  test('that fails is told to everybody', async () => {
    const { clock, next, router, source, fail, accepting } = made();
    const waiting = watch(next(id(1)));
    const held = await source(2);
    const lost: GodwitError[] = [];
    router.register(id(3), { offer: () => {}, noMoreConnections: (reason) => void lost.push(reason) });
    await clock.yield();
    fail(new Error('EADDRGONE'));
    await clock.sleep(1);
    const message = expect.stringContaining('EADDRGONE');
    expect([waiting.outcome, ...lost, error(held.heard)]).toMatchObject([{ message }, { message }, { message }]);
    expect(accepting.now).toBe(0);
    // Whoever comes later has the listener asked again.
    const later = watch(next());
    await clock.sleep(1);
    expect(later.outcome).toMatchObject({ message });
  });

  test('that nobody waits for any more keeps no peer waiting that has not said hello', async () => {
    const { clock, next, connect } = made();
    const over = new AbortController();
    next(undefined, over.signal).catch(() => {});
    const { heard } = await connect();
    await clock.yield();
    over.abort(new GodwitError('GODWIT_CANCELLED', 'enough'));
    await clock.sleep(1);
    expect(error(heard)).toMatchObject({ code: 'GODWIT_CANCELLED' });
  });

  test('that is asked again while it gives up the last call serves whoever came meanwhile', async () => {
    const { clock, next, source, accepting } = made();
    const over = new AbortController();
    const first = watch(next(undefined, over.signal));
    await clock.yield();
    over.abort(new Error('enough'));
    const second = next();
    await clock.yield();
    expect([first.state, accepting.now]).toEqual(['rejected', 1]);
    await source(4);
    expect(numberOf(await second)).toBe(4);
  });

  test('has one router', () => {
    const [one, other] = [made().listener, made().listener];
    expect(connectionRouter(one)).toBe(connectionRouter(one));
    expect(connectionRouter(one)).not.toBe(connectionRouter(other));
  });
});

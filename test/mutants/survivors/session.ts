import type { Survivors } from './survivors.js';

/** Of packages/core/src/session. */
export const SESSION: readonly Survivors[] = [
  {
    file: 'session/closing-message.ts',
    why: 'how long closing may take is a choice; the tests take it from the code',
    mutants: ['CLOSING_MS: 1000 -> 2000'],
  },
  {
    file: 'session/closing-message.ts',
    why: 'one turn of the event loop more, or one that is not waited for before the next wait: nothing else comes between',
    mutants: ['closeStreams: busy -> true', 'closeStreams: await clock.yield() without await'],
  },
  {
    file: 'session/keepalive.ts',
    why: 'a link has its control stream as long as it lives; the compiler does not know that',
    mutants: [
      'keepAlive: control?.bytesWritten without ?. at control',
      'keepAlive: control?.bytesWritten without ?. at control #2',
      'keepAlive: control?.bytesWritten ?? 0 -> left side',
      'keepAlive: 0 -> 1 #10',
      'keepAlive: keepaliveMs > 0 && Math.max(quietMs, silentMs) >= keepaliveMs && control !== undefined -> left side',
    ],
  },
  {
    file: 'session/keepalive.ts',
    why: 'which keys there are is read, and not what is under them',
    mutants: ['KEEPALIVE_OPTIONS: true -> false', 'KEEPALIVE_OPTIONS: true -> false #2'],
  },
  {
    file: 'session/keepalive.ts',
    why: 'the more often is looked, the sooner silence is noticed: how often is a choice',
    mutants: ['CHECKS: 4 -> 8'],
  },
  {
    file: 'session/keepalive.ts',
    why: 'the hello has been written before the first look, and a byte more or less of it is not what tells a live peer from a dead one',
    mutants: ['keepAlive: 0 -> 1', 'keepAlive: 0 -> 1 #3'],
  },
  {
    file: 'session/keepalive.ts',
    why: 'a millisecond is far below the quarter of the shorter time by which either may be exceeded',
    mutants: ['keepAlive: 0 -> 1 #4', 'keepAlive: 0 -> 1 #5', 'keepAlive: 0 -> 1 #8', 'keepAlive: 0 -> 1 #9'],
  },
  {
    file: 'session/keepalive.ts',
    why: 'the numbers of bytes of two looks are compared: it does not matter from where both are counted, nor, where only their equality counts, in which direction',
    mutants: ['keepAlive: 0 -> 1 #7', 'keepAlive: sum + stream.bytesRead -> -'],
  },
  {
    file: 'session/pings.ts',
    why: 'an index that was found has an element; the compiler does not know that',
    mutants: ['Pings.answered: waiting?.resolve(this.#clock.now() - waiting.sentAt) without ?. at waiting'],
  },
  {
    file: 'session/retry.ts',
    why: 'a signal aborts once',
    mutants: [
      "keepTrying: signal.addEventListener('abort', onStop, { once: true }) without its last argument",
      'keepTrying: true -> false',
    ],
  },
  {
    file: 'session/retry.ts',
    why: 'a pause of no time is a turn of the event loop',
    mutants: ['keepTrying: wait > 0 -> true', 'keepTrying: wait > 0 -> >='],
  },
  {
    file: 'session/connection.ts',
    why: 'a signal aborts once',
    mutants: [
      "Connection.follow: signal.addEventListener('abort', onStop, { once: true }) without its last argument",
      'Connection.follow: true -> false',
      "Connection.follow: this.signal.addEventListener('abort', () => signal.removeEventListener('abort', onStop), { once: ... without its last argument",
      'Connection.follow: true -> false #2',
    ],
  },
  {
    file: 'session/connection.ts',
    why: 'a frame that was read comes in a later microtask in any case, when the constructor has returned',
    mutants: [
      'Connection.#readAll: await Promise.resolve(); removed',
      'Connection.#readAll: await Promise.resolve() without await',
    ],
  },
  {
    file: 'session/connection.ts',
    why: 'the streams are aborted by then, so that reading ends at once, whether it is waited for or not',
    mutants: ['Connection.close: written -> true'],
  },
  {
    file: 'session/connection.ts',
    why: 'the streams are aborted by then, so that reading has ended with a failure; the compiler does not know that',
    mutants: ['Connection.close: this.#failure?.remote without ?. at this.#failure'],
  },
];

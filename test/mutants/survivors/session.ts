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
    mutants: ['keepAlive: control?.bytesWritten without ?. at control #2'],
  },
];

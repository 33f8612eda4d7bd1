import { GodwitError } from '@godwit/core';
import { expect, test } from '@jest/globals';
import { type DemoEvent, demoEvent } from '../../dist/demo/demo-event.js';
import { newsText } from '../../dist/demo/view/news.js';
import { plainLines } from '../../dist/demo/view/plain-lines.js';
import { EMPTY_VIEW, reduce } from '../../dist/demo/view/view-state.js';
import { SPEC } from './synthetic-run.js';

const OVERRAN = new GodwitError('GODWIT_SWITCHOVER_OVERRAN', 'it took too long');

/** Events of the engine, and the lines that the demo shows for them. */
const NEWS = [
  [
    { type: 'went-back', attempt: 2, term: 'loadMs', elapsedMs: 512, limitMs: 500, reason: OVERRAN },
    'switchover, attempt 2, given up after 512 ms (load device state): GODWIT_SWITCHOVER_OVERRAN: it took too long',
  ],
  [
    { type: 'not-prepared', waitedMs: 1500 },
    'the destination is not prepared yet: waited 1.5 s with the guest running',
  ],
  [
    { type: 'downtime-exceeded', limitMs: 100, downtimeMs: 130, term: 'ramMs' },
    'down for 130 ms, the limit is 100 ms: mostly last dirty pages',
  ],
  [
    { type: 'connect-failed', attempt: 3, reason: new GodwitError('GODWIT_CONNECT_FAILED', 'refused') },
    'attempt 3 to connect failed: GODWIT_CONNECT_FAILED: refused',
  ],
  [{ type: 'failed', error: OVERRAN }, 'the migration failed: GODWIT_SWITCHOVER_OVERRAN: it took too long'],
] as const;

/** Events whose lines are shown for one migration, and left out with `--round-trips`. */
const SMALL_NEWS = [
  [{ type: 'prepared', waitedMs: 90 }, 'the destination is prepared, after 90 ms'],
  [
    { type: 'switchover-start', attempt: 1, limitMs: 500 },
    'switchover, attempt 1: the guest is paused for at most 500 ms',
  ],
  [
    { type: 'throttle', fraction: 0.4, previous: 0.2, reason: 'it writes too fast' },
    'the guest is held back for 40 % of its time, before 20 %: it writes too fast',
  ],
  [
    { type: 'throttle', fraction: 0, previous: 0.4, reason: 'the guest is paused' },
    'the guest is no longer held back: the guest is paused',
  ],
  [
    { type: 'bandwidth', bytesPerSecond: 2 ** 20, previous: 0, reason: 'others need the link' },
    'the limit of the pre-copy is 1 MiB/s, before none: others need the link',
  ],
  [
    { type: 'switchover-start', attempt: 1, limitMs: 0 },
    'switchover, attempt 1: the guest is paused for as long as it takes',
  ],
] as const;

function seen(event: Parameters<typeof demoEvent>[0]): DemoEvent {
  const told = demoEvent(event);
  if (told === undefined) throw new Error(`nothing is told of ${event.type}`);
  // The event is copied as between two processes: an Error would lose its code.
  return structuredClone(told);
}

const roundTrips = (count: number) =>
  reduce(EMPTY_VIEW, {
    event: 'guest',
    host: 'source',
    spec: SPEC,
    settings: {
      ...{ transport: 'tcp', downtimeLimitMs: 100, maxBandwidth: 0, postcopy: false, postcopyBandwidth: 0 },
      ...{ roundTrips: count, verify: true },
    },
    atMs: 0,
  });

test.each(NEWS)('$type is a line, in one migration and in a hundred', (event, line) => {
  const timed = { ...seen(event), atMs: 5 };
  for (const trips of [0, 100]) expect(plainLines(timed, roundTrips(trips))).toEqual([line]);
  // The live view shows the last few.
  expect(reduce(EMPTY_VIEW, timed).notices).toEqual([{ text: line, bad: false }]);
});

test.each(SMALL_NEWS)('$type is a line in one migration, and none in a hundred', (event, line) => {
  const timed = { ...seen(event), atMs: 5 };
  expect(plainLines(timed, roundTrips(0))).toEqual([line]);
  expect(plainLines(timed, roundTrips(100))).toEqual([]);
});

test('the status that a late subscriber gets is the state that the view shows', () => {
  const progress = {
    state: 'active',
    elapsedMs: 5,
    round: 3,
    roundPagesSent: 1,
    roundPages: 2,
    pages: { raw: 1, zero: 0, hole: 0, delta: 0, compressed: 0 },
    rawBytes: 4096,
    wireBytes: 4100,
    savedBytes: 0,
    wireBytesPerSecond: 1,
    dirtyPagesPerSecond: 1,
    predictedDowntimeMs: undefined,
    remainingMs: undefined,
    throttle: 0,
    remainingRangeMs: undefined,
    deviceBytes: 0,
  } as const;
  const status = {
    state: 'active',
    ownership: 'running',
    progress,
    lastRound: undefined,
    attempt: 2,
    downtimeLimitMs: 300,
    bandwidthLimit: 0,
    error: undefined,
  } as const;
  const event = seen({ type: 'status', status });
  expect(event.event === 'status' && newsText(event)).toBe('the migration is in state active, round 3, attempt 2');
  expect(reduce(EMPTY_VIEW, { ...event, atMs: 1 }).state).toBe('active');
});

test('a link that was lost is a warning with its code, also from another process', () => {
  const event = seen({ type: 'link-lost', reason: new GodwitError('GODWIT_LINK_LOST', 'reset by peer') });
  expect(event).toEqual({ event: 'warning', code: 'GODWIT_LINK_LOST', message: 'reset by peer' });
});

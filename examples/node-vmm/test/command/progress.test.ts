import { PassThrough } from 'node:stream';
import { stripVTControlCharacters } from 'node:util';
import type { MigrationEvent, Progress, RoundRecord } from '@godwit/core';
import { expect, test } from '@jest/globals';
import { jsonProgress, textProgress } from '../../dist/command/progress-output.js';
import { eventText, progressText } from '../../dist/command/progress-text.js';

const MIB = 2 ** 20;

function progress(part: Partial<Progress> = {}): Progress {
  return {
    state: 'active',
    elapsedMs: 1000,
    round: 3,
    roundPagesSent: 1024,
    roundPages: 4096,
    pages: { raw: 0, zero: 0, hole: 0, delta: 0, compressed: 0 },
    rawBytes: 0,
    wireBytes: 0,
    deviceBytes: 0,
    savedBytes: 0,
    wireBytesPerSecond: 100 * MIB,
    dirtyPagesPerSecond: 0,
    predictedDowntimeMs: 85,
    remainingMs: 3000,
    throttle: 0,
    remainingRangeMs: [2000, 6000],
    ...part,
  };
}

const round: MigrationEvent = {
  type: 'round',
  round: {
    round: 1,
    phase: 'pre-copy',
    pages: { raw: 10, zero: 0, hole: 0, delta: 0, compressed: 0 },
    wireBytes: MIB,
    totalMs: 100,
    endedAtMs: 100,
    newlyDirtyPages: 5,
    predictedDowntimeMs: 85,
    predictedDowntimeRangeMs: [60, 140],
  } as unknown as RoundRecord,
};

test('the progress line has the round, the rate, the rest, the downtime with its interval, and the remaining time', () => {
  expect(progressText(progress(), [60, 140])).toBe(
    'round 3: 25 %, 100 MiB/s, 12 MiB to go, downtime would be 85 ms (60 to 140 ms), 3.0 s left (2.0 to 6.0 s)',
  );
});

test('the progress line leaves out the intervals where there is no room for them', () => {
  const brief = 'round 3: 25 %, 100 MiB/s, 12 MiB to go, downtime would be 85 ms, 3.0 s left';
  expect(progressText(progress(), [60, 140], 79)).toBe(brief);
  expect(progressText(progress(), [60, 140], 20)).toBe(brief);
});

test('the progress line leaves out unknown values, and says which are unbounded', () => {
  const early = progress({
    round: 1,
    wireBytesPerSecond: 0,
    predictedDowntimeMs: undefined,
    remainingMs: undefined,
    remainingRangeMs: undefined,
  });
  expect(progressText(early)).toBe('round 1: 25 %, 12 MiB to go');
  // In JSON an infinite value is null.
  const crossed = progress({
    predictedDowntimeMs: null as unknown as number,
    remainingRangeMs: [2000, null as unknown as number],
    throttle: 0.4,
  });
  expect(progressText(crossed, [60, null])).toBe(
    'round 3: 25 %, 100 MiB/s, 12 MiB to go, guest held back 40 %, downtime would be unbounded (60 ms to unbounded), 3.0 s left (2.0 s to unbounded)',
  );
});

test('by post-copy the progress line has the pages that follow the guest, and no predicted downtime', () => {
  expect(progressText(progress({ state: 'postcopy-device' }))).toMatch(/^switching over, /);
  expect(progressText(progress({ state: 'postcopy-active' }), [60, 140])).toBe(
    'the guest runs there; 25 % of its missing pages sent, 100 MiB/s, 12 MiB to go',
  );
  expect(eventText({ type: 'state', state: 'postcopy-active', previous: 'postcopy-device' })).toMatch(
    /^the guest runs at the destination; its missing pages follow/,
  );
  // Once, and not for each link.
  expect(eventText({ type: 'state', state: 'postcopy-active', previous: 'postcopy-recover' })).toBeUndefined();
});

test.each([
  ['postcopy-paused', 'the guest runs at the destination and lacks pages; the link is lost, connecting again'],
  ['reconnecting', 'the link is lost; connecting again'],
  ['settling', 'the link is lost; asking the destination whether it runs the guest'],
] as const)('in %s, says so', (state, text) => {
  expect(progressText(progress({ state }))).toBe(text);
});

test('on a terminal the progress is one line that is updated in place and never wraps, with the lines of events above it', () => {
  const stream = Object.assign(new PassThrough({ encoding: 'utf8' }), { isTTY: true, columns: 40 });
  const output = textProgress(stream);
  for (const sent of [100, 200]) output.event({ type: 'progress', progress: progress({ roundPagesSent: sent }) });
  output.event(round);
  output.event({ type: 'progress', progress: progress() });
  output.end();
  const written = String(stream.read());
  const lines = written.split('\n');
  expect(lines).toHaveLength(2);
  const [inPlace = '', last = ''] = lines;
  expect(inPlace.split('\r').map((piece) => piece.replace('\u001b[K', ''))).toEqual([
    '',
    'round 3: 2 %, 100 MiB/s, 15.6 MiB to go',
    'round 3: 5 %, 100 MiB/s, 15.2 MiB to go',
    'round 1: 10 pages, 1 MiB in 100 ms; 5 pages dirty again, downtime would be 85 ms (60 to 140 ms)',
  ]);
  const [, shown = '', cleared] = last.split('\r').map((piece) => stripVTControlCharacters(piece));
  expect(shown).toMatch(/^round 3: 25 %, /);
  expect(shown).toHaveLength(39);
  expect(cleared).toBe('');
});

test('in a file or a pipe the progress is a line a second, without control characters', () => {
  const stream = new PassThrough({ encoding: 'utf8' });
  let now = 0;
  const output = textProgress(stream, () => now);
  for (now = 0; now < 3000; now += 100) output.event({ type: 'progress', progress: progress() });
  output.event(round);
  output.end();
  const lines = String(stream.read()).trimEnd().split('\n');
  expect(lines).toHaveLength(4);
  expect(stripVTControlCharacters(lines.join(''))).toBe(lines.join(''));
  expect(lines.join('')).not.toContain('\r');
});

test('as JSON the progress is every event', () => {
  const stream = new PassThrough({ encoding: 'utf8' });
  jsonProgress(stream).event({ type: 'progress', progress: progress() });
  expect(JSON.parse(String(stream.read()))).toMatchObject({ event: { type: 'progress', progress: { round: 3 } } });
});

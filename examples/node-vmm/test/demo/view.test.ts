import { describe, expect, test } from '@jest/globals';
import type { TimedEvent } from '../../dist/demo/demo-event.js';
import { plainLines } from '../../dist/demo/view/plain-lines.js';
import { render } from '../../dist/demo/view/render.js';
import { type StyledLine, widthOf } from '../../dist/demo/view/styled-line.js';
import { EMPTY_VIEW, reduce, type ViewState } from '../../dist/demo/view/view-state.js';
import { syntheticRun } from './synthetic-run.js';

function text(lines: readonly StyledLine[]): string {
  return lines.map((line) => line.map((span) => span.text).join('')).join('\n');
}

/** The view after each event of a run. */
function* states(events: readonly TimedEvent[] = syntheticRun()): Iterable<[ViewState, TimedEvent]> {
  let view = EMPTY_VIEW;
  for (const event of events) {
    view = reduce(view, event);
    yield [view, event];
  }
}

function viewAfter(isLast: (event: TimedEvent) => boolean): ViewState {
  for (const [view, event] of states()) if (isLast(event)) return view;
  throw new Error('no such event');
}

describe('the terminal view', () => {
  test.each([
    [60, 20],
    [80, 24],
    [120, 40],
  ])('at %i columns no line is longer, at any moment', (columns, rows) => {
    for (const [view, { atMs }] of states()) {
      for (const line of render(view, columns, rows, atMs)) expect(widthOf(line)).toBeLessThanOrEqual(columns);
    }
  });

  test('while the guest moves, the picture fits the terminal', () => {
    for (const [view, { atMs }] of states()) {
      if (view.phase !== 'done') expect(render(view, 80, 24, atMs).length).toBeLessThanOrEqual(24);
    }
  });

  test('shows rounds, the one under way, rates, the predicted downtime and the time left', () => {
    const view = viewAfter((event) => event.event === 'progress' && event.round === 3);
    const picture = text(render(view, 100, 40, 5000));
    expect(picture).toContain('round 1');
    expect(picture).toContain('49,500 pages');
    expect(picture).toMatch(/round 3 .*4,675 of 18,700/);
    expect(picture).toMatch(/dirtied .*MiB\/s/);
    expect(picture).toMatch(/link .*121 MiB\/s/);
    expect(picture).toMatch(/downtime .*312 ms of 100 ms/);
    expect(picture).toContain('left');
  });

  test('a guest that is held back, and the interval of a prediction, are shown', () => {
    const view = viewAfter((event) => event.event === 'progress' && event.round === 3);
    const slowed = reduce(view, { event: 'throttle', fraction: 0.4, previous: 0, reason: 'too fast', atMs: 1 });
    expect(text(render(slowed, 100, 40, 5000))).toContain('the guest is held back for 40 % of its time');
    const free = reduce(slowed, { event: 'throttle', fraction: 0, previous: 0.4, reason: 'paused', atMs: 2 });
    for (const other of [view, free]) expect(text(render(other, 100, 40, 5000))).not.toContain('held back');
    const round = syntheticRun().find(({ event }) => event === 'round');
    if (round?.event !== 'round') throw new Error('the run has no round');
    expect(plainLines(round, view)[0]).not.toContain('held back');
    const told = { ...round, throttle: 0.4, predictedDowntimeMs: 30, predictedDowntimeRangeMs: [12, 1500] } as const;
    expect(plainLines(told, view)[0]).toContain('held back for 40 %; downtime would be 30 ms (12 ms to 1.5 s)');
    expect(plainLines({ ...told, predictedDowntimeRangeMs: [12, 60] } as typeof round, view)[0]).toContain(
      '(12 to 60 ms)',
    );
  });

  test('console lines carry the colour of the host that printed them, and the end shows the crossing', () => {
    const lines = render(
      viewAfter((event) => event.event === 'completed'),
      100,
      40,
      0,
    );
    const beats = lines
      .filter((line) => text([line]).includes('heartbeat 0'))
      .map((line) => ({ colour: line.at(-1)?.colour, count: Number(/heartbeat (\d+)/.exec(text([line]))?.[1]) }));
    expect(new Set(beats.map(({ colour }) => colour))).toEqual(new Set(['source', 'destination']));
    beats.slice(1).forEach(({ count }, at) => {
      expect(count).toBe((beats[at]?.count ?? 0) + 1);
    });
  });

  test('control characters of the guest do not reach the terminal', () => {
    const view = reduce(EMPTY_VIEW, { event: 'console', host: 'source', text: 'a\u001b[2Jb\u0007', atMs: 0 });
    expect(text(render(view, 80, 24, 0))).toContain('a·[2Jb·');
  });

  test('ends in a summary: verdict, downtime term by term, predicted against actual', () => {
    const picture = text(
      render(
        viewAfter((event) => event.event === 'completed'),
        80,
        24,
        0,
      ),
    );
    expect(picture).toContain('✓ verified');
    expect(picture).toMatch(/last dirty pages\s+30 ms\s+31\.9 ms/);
    expect(picture).toMatch(/together\s+35\.1 ms\s+38\.2 ms/);
    expect(picture).toContain('455 ms as the guest');
  });

  test('after many migrations: how downtime and loading were spread, and what was told of those above the limit', () => {
    const last = syntheticRun().at(-1);
    if (last?.event !== 'completed') throw new Error('the run has no result');
    const distribution = {
      loadMs: { median: 0.8, p95: 2.1, max: 6 },
      downtimeMs: { median: 14, p95: 31, max: 130 },
      downtimeLimitMs: 100,
      overLimit: 3,
      unannounced: 1,
      events: { 'went-back': 2, 'not-prepared': 0, 'downtime-exceeded': 1 },
    };
    const picture = text(render(reduce(EMPTY_VIEW, { ...last, migrations: 200, distribution }), 80, 24, 0));
    expect(picture).toMatch(/spread +downtime median 14 ms, 95 % within 31 ms, at most 130 ms/);
    expect(picture).toContain('loading  median 0.80 ms, 95 % within 2.10 ms, at most 6 ms');
    expect(picture).toMatch(/limit +100 ms: 3 above it, 1 of them without an event/);
    expect(picture).toMatch(/events +went-back 2, not-prepared 0, downtime-exceeded 1/);
  });

  test('a failure says its code and message', () => {
    const view = reduce(EMPTY_VIEW, {
      event: 'failed',
      code: 'GODWIT_LINK_LOST',
      message: 'the peer is gone',
      atMs: 0,
    });
    expect(text(render(view, 80, 24, 0))).toContain('✗ GODWIT_LINK_LOST: the peer is gone');
  });
});

test('a long message is wrapped, not cut', () => {
  const message = 'the destination failed: device "chipset" failed to load its state: the section "PICM" is missing';
  const view = reduce(EMPTY_VIEW, { event: 'failed', code: 'GODWIT_DEVICE_FAILED', message, atMs: 0 });
  const lines = render(view, 60, 24, 0);
  for (const line of lines) expect(widthOf(line)).toBeLessThanOrEqual(60);
  expect(text(lines).replaceAll(/\s+/g, ' ')).toContain(message);
});

describe('plain lines', () => {
  test('one line a round, one a console line, and the summary at the end', () => {
    const printed = [...states()].flatMap(([view, event]) => plainLines(event, view));
    expect(printed.filter((line) => /^round \d+: /.test(line))).toHaveLength(6);
    expect(printed.filter((line) => line.startsWith('final'))).toHaveLength(1);
    expect(printed.filter((line) => line.startsWith('[destination] [guest] heartbeat'))).toHaveLength(12);
    expect(printed.join('\n')).toContain('✓ verified');
    for (const line of printed) expect(line).not.toContain('\u001b');
  });
});

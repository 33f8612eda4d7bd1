import { CELLS, cellsText, FIRST_CELLS, nextCells } from '@godwit/example-node-vmm/guest';
import { describe, expect, test } from '@jest/globals';
import type { TimedEvent } from '../../dist/demo/demo-event.js';
import { consoleRows } from '../../dist/demo/view/console-rows.js';
import { plainLines } from '../../dist/demo/view/plain-lines.js';
import { render } from '../../dist/demo/view/render.js';
import { type StyledLine, widthOf } from '../../dist/demo/view/styled-line.js';
import { EMPTY_VIEW, reduce, type ViewState } from '../../dist/demo/view/view-state.js';
import { syntheticRun } from './synthetic-run.js';

function text(lines: readonly StyledLine[]): string {
  return lines.map((line) => line.map((span) => span.text).join('')).join('\n');
}

const HALVES = [' ', '▀', '▄', '█'];
const QUADRANTS = [...' ▘▝▀▖▌▞▛▗▚▐▜▄▙▟█'];

/** The two rows of cells that a line of block characters shows. */
function cellsDrawn(line: string): readonly string[] {
  const wide = line.length === CELLS;
  const rows: [string, string] = ['', ''];
  for (const glyph of line) {
    const bits = wide ? HALVES.indexOf(glyph) : QUADRANTS.indexOf(glyph);
    if (bits < 0) throw new Error(`no block: ${glyph}`);
    const cell = (bit: number) => ((bits & bit) === 0 ? ' ' : '#');
    rows[0] += wide ? cell(1) : cell(1) + cell(2);
    rows[1] += wide ? cell(2) : cell(4) + cell(8);
  }
  return rows;
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
    [40, 24],
    [60, 20],
    [80, 24],
    [120, 40],
  ])('at %i columns no line is longer, at any moment', (columns, rows) => {
    for (const [view, { atMs }] of states()) {
      for (const line of render(view, columns, rows, atMs)) expect(widthOf(line)).toBeLessThanOrEqual(columns);
    }
  });

  test.each([
    [40, 16],
    [40, 24],
    [80, 24],
    [120, 40],
  ])(
    'while the guest moves, the picture fits a terminal of %i by %i, with the guest and the rates in it',
    (columns, rows) => {
      for (const [view, { atMs }] of states()) {
        if (view.phase === 'done') continue;
        const picture = render(view, columns, rows, atMs);
        expect(picture.length).toBeLessThanOrEqual(rows);
        expect(text(picture)).toContain('downtime');
        if (view.console.length > 2) expect(text(picture)).toMatch(/[▌▐] .*[▀▄█▘▝▖▗▚▞▛▜▙▟]/);
      }
    },
  );

  test.each([
    [80, 23],
    [100, 40],
    [40, 60],
  ])(
    'at the end everything fits %i by %i: verdict, figures, both sides of the crossing, what to try next',
    (columns, rows) => {
      const view = viewAfter((event) => event.event === 'completed');
      const picture = render(view, columns, rows, 0);
      expect(picture.length).toBeLessThanOrEqual(rows);
      const words = text(picture).replaceAll(/\s+/g, ' ');
      for (const part of ['▌', 'stood still for', '▐', '✓ verified', 'final', 'together', '-- --record a.godwit']) {
        expect(words).toContain(part);
      }
      // No line of the result is cut off.
      expect(words.replace(/… \d+ more/, '')).not.toContain('…');
    },
  );

  test('the result and the crossing fit 40 columns and 23 rows too', () => {
    const view = viewAfter((event) => event.event === 'completed');
    const picture = render(view, 39, 23, 0);
    expect(picture.length).toBeLessThanOrEqual(23);
    const words = text(picture).replaceAll(/\s+/g, ' ');
    for (const part of ['▌', 'stood still for 455 ms', '▐', '✓ verified', 'together', '--record a.godwit'])
      expect(words).toContain(part);
  });

  test('the result and the crossing fit 40 columns and 23 rows also when the downtime exceeded the limit', () => {
    const news = { event: 'downtime-exceeded', downtimeMs: 119, limitMs: 100, term: 'deviceMs' } as const;
    const before = viewAfter((event) => event.event === 'completed');
    const view = reduce(before, { ...news, atMs: 1 } as TimedEvent);
    expect(view.notices).toHaveLength(1);
    const picture = render(view, 39, 23, 0);
    expect(picture.length).toBeLessThanOrEqual(23);
    const words = text(picture).replaceAll(/\s+/g, ' ');
    for (const part of ['down for 119 ms', 'device state', '▌', 'stood still for 455 ms', '▐', 'together'])
      expect(words).toContain(part);
  });

  test('what the hosts saw and what the guest saw stand on one line', () => {
    const view = viewAfter((event) => event.event === 'completed');
    expect(text(render(view, 79, 23, 0))).toMatch(/hosts 38\.2 ms \+ comparison 412 ms ≈ guest's own clock 455 ms\n/);
  });

  test('a rate that is not measured yet is not shown as 0', () => {
    for (const [view, { atMs }] of states()) expect(text(render(view, 100, 40, atMs))).not.toMatch(/ 0 B\/s/);
    const view = viewAfter((event) => event.event === 'progress' && event.round === 3);
    const idle = {
      ...(view.progress as NonNullable<typeof view.progress>),
      wireBytesPerSecond: 0,
      dirtyPagesPerSecond: 0,
    };
    const picture = text(render({ ...view, progress: idle }, 100, 40, 0));
    const greetings = { ...idle, rawBytes: 0, wireBytesPerSecond: 49 };
    const early = text(render({ ...reduce(EMPTY_VIEW, { event: 'progress', atMs: 0, ...greetings }) }, 100, 40, 0));
    expect(early).toMatch(/link .*not measured yet/);
    expect(picture).toMatch(/dirtied .*[1-9][\d.]* MiB\/s/);
    expect(picture).toMatch(/link .*[1-9][\d.]* MiB\/s/);
  });

  test('a run that was interrupted after the move keeps its figures', () => {
    const last = syntheticRun().at(-1);
    if (last?.event !== 'completed') throw new Error('the run has no result');
    const { event: _, atMs, ...figures } = last;
    const before = viewAfter((event) => event.event === 'phase' && event.phase === 'checking');
    const view = reduce(before, { event: 'failed', code: 'GODWIT_CANCELLED', message: 'interrupted', figures, atMs });
    const picture = text(render(view, 80, 24, 0));
    expect(picture).toContain('✗ GODWIT_CANCELLED: interrupted');
    expect(picture).toMatch(/total +4\.1 s, 7 rounds/);
    expect(picture).toMatch(/together\s+35\.1 ms\s+38\.2 ms/);
    expect(picture).not.toContain('✓');
  });

  test('says that a host process has ended', () => {
    const message =
      'destination: the process (pid 7) ended with SIGKILL; the guest was on its way there, and runs on at the source';
    const view = reduce(EMPTY_VIEW, { event: 'host-gone', host: 'destination', message, atMs: 0 });
    expect(text(render(view, 80, 24, 0)).replaceAll(/\s+/g, ' ')).toContain(message);
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

  test.each([100, 40])(
    'at %i columns the picture goes on across the crossing, cell by cell, each host with its own mark',
    (columns) => {
      const view = viewAfter((event) => event.event === 'completed');
      const rows = consoleRows(view.console, columns);
      const crossings = rows.filter((line) => text([line]).includes('stood still for'));
      expect(crossings).toHaveLength(1);
      // The cells as they are drawn, two rows of them in each line; half of a line may be empty beside the crossing.
      const drawn = rows
        .filter((line) => line[0]?.colour === 'source' || line[0]?.colour === 'destination')
        .flatMap((line) => {
          expect(line[0]?.text).toBe(line[0]?.colour === 'source' ? '  ▌ ' : '  ▐ ');
          return cellsDrawn(line[1]?.text ?? '');
        })
        .filter((row) => row.includes('#'));
      let cells = FIRST_CELLS;
      const expected = drawn.map(() => {
        cells = nextCells(cells);
        return cellsText(cells);
      });
      expect(drawn).toEqual(expected);
      expect(drawn.length).toBeGreaterThan(30);
    },
  );

  test('a line of the guest that is no heartbeat stands between the rows', () => {
    const shown = ['[guest] started vcpus=2 owned=3000', '[guest] defect kind=stale'];
    const view = shown.reduce<ViewState>(
      (state, line) => reduce(state, { event: 'console', host: 'source', text: line, atMs: 0 }),
      EMPTY_VIEW,
    );
    for (const line of shown) expect(text(render(view, 80, 24, 0))).toContain(`▌ ${line}`);
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
    expect(picture).toContain("guest's own clock 455 ms");
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
    expect(printed.filter((line) => /^\[destination\] \d{6} \|[ #]{64}\|$/.test(line))).toHaveLength(12);
    expect(printed.join('\n')).toContain('✓ verified');
    for (const line of printed) expect(line).not.toContain('\u001b');
  });
});

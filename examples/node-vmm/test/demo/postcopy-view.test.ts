import type { FaultStatus } from '@godwit/core';
import { describe, expect, test } from '@jest/globals';
import type { DemoEvent, TimedEvent } from '../../dist/demo/demo-event.js';
import { plainLines } from '../../dist/demo/view/plain-lines.js';
import { render } from '../../dist/demo/view/render.js';
import { type StyledLine, widthOf } from '../../dist/demo/view/styled-line.js';
import { EMPTY_VIEW, reduce, type ViewState } from '../../dist/demo/view/view-state.js';
import { syntheticRun } from './synthetic-run.js';

const MISSING = 9000;

function faults(pagesMissing: number): FaultStatus {
  return {
    ...{ pagesMissing, pagesTotal: MISSING, faults: 1234, faultsPerSecond: 321 },
    ...{
      zeroFaults: 0,
      duplicatePages: 0,
      waitingUs: 0,
      latencyDistribution: [0, 0, 0, 0, 0, 0, 1200, 34],
      worstLatencyUs: 240,
    },
    ...{ blocked: [], pagesLost: 0, remainingMs: pagesMissing / 3 },
  };
}

/** The synthetic run, by post-copy: its pages follow after the last round. */
function postcopyRun(): readonly TimedEvent[] {
  const events: TimedEvent[] = [];
  for (const event of syntheticRun()) {
    const { atMs } = event;
    if (event.event === 'compared') continue;
    if (event.event === 'guest') {
      const settings = { ...event.settings, postcopy: true, postcopyBandwidth: 32 * 2 ** 20, verify: false };
      events.push({ ...event, settings });
    } else if (event.event === 'state' && event.state === 'device') {
      const following: DemoEvent[] = [
        { event: 'state', state: 'postcopy-device', previous: 'active' },
        { event: 'state', state: 'postcopy-active', previous: 'postcopy-device' },
        { event: 'round-start', round: 8, dirtyPages: MISSING },
        ...[9000, 4500, 10, 0].map((missing): DemoEvent => ({ event: 'faults', ...faults(missing) })),
      ];
      events.push(...following.map((one) => ({ ...one, atMs })));
    } else if (event.event === 'migrated') {
      events.push({ ...event, verified: false, postcopy: { pages: MISSING, ms: 3012, lostLinks: 1 } });
    } else events.push(event);
  }
  return events;
}

const RUN = postcopyRun();

function text(lines: readonly StyledLine[]): string {
  return lines.map((line) => line.map((span) => span.text).join('')).join('\n');
}

function* views(): Iterable<[ViewState, TimedEvent]> {
  let view = EMPTY_VIEW;
  for (const event of RUN) {
    view = reduce(view, event);
    yield [view, event];
  }
}

function viewAfter(isIt: (event: TimedEvent) => boolean): ViewState {
  for (const [view, event] of views()) if (isIt(event)) return view;
  throw new Error('no such event');
}

describe('a run by post-copy', () => {
  test.each([
    [40, 24],
    [80, 24],
    [120, 40],
  ])('fits %i by %i while its pages follow', (columns, rows) => {
    for (const [view, { atMs }] of views()) {
      const picture = render(view, columns, rows, atMs);
      for (const line of picture) expect(widthOf(line)).toBeLessThanOrEqual(columns);
      if (view.phase !== 'done') expect(picture.length).toBeLessThanOrEqual(rows);
    }
  });

  test.each([40, 80, 120])('shows at %i columns what is missing, faults a second and how long they take', (columns) => {
    const view = viewAfter((event) => event.event === 'faults' && event.pagesMissing === 4500);
    const words = text(render(view, columns, 40, 0)).replaceAll(/\s+/g, ' ');
    expect(words).toContain('postcopy-active');
    expect(words).toContain('4,500 of 9,000 pages missing, 1,234 faults, 321 a second, the longest 240 us');
    expect(words).toContain('1,200 up to 128 us, 34 up to 256 us');
    expect(words).toContain('50 %');
    // The picture shows the guest at the destination already.
    expect(words).toMatch(/○ source .* destination ●/);
    expect(words).toContain('following');
    expect(words).toContain('post-copy limited to 32 MiB/s');
  });

  test('has no lines about faults before the guest runs there, nor once its pages have come', () => {
    const before = viewAfter((event) => event.event === 'state' && event.state === 'postcopy-device');
    expect(text(render(before, 100, 40, 0))).not.toContain('pages missing');
    const after = viewAfter((event) => event.event === 'phase' && event.phase === 'settling');
    expect(text(render(after, 100, 40, 0))).not.toContain('pages missing');
  });

  test.each([39, 79])(
    'its result at %i columns has the pages that followed, and how many were waited for',
    (columns) => {
      const view = viewAfter((event) => event.event === 'completed');
      const words = text(render(view, columns, 60, 0)).replaceAll(/\s+/g, ' ');
      expect(words).toContain('✓ verified 49,152 pages checked at the destination');
      expect(words).toContain('9,000 pages in 3.0 s, over 2 links; 1,234 were waited for');
      expect(words).toContain('1,200 up to 128 us, 34 up to 256 us');
    },
  );

  test('as lines of text says that the guest runs there, and when its last page has come', () => {
    const lines = [...views()].flatMap(([view, event]) => plainLines(event, view));
    expect(lines).toContain('postcopy-active: the guest runs at the destination, and pages are missing there');
    expect(lines.filter((line) => line.startsWith('its pages have come: 0 of 9,000'))).toHaveLength(1);
  });

  test('says that it is too late to a user who cancels after the move', () => {
    const late = { event: 'cancelling', late: true, atMs: 1 } as const;
    const view = reduce(EMPTY_VIEW, late);
    expect(text(render(view, 100, 40, 0))).toContain('too late to cancel: the guest runs there');
    expect(plainLines(late, view)).toEqual([expect.stringContaining('too late to cancel')]);
  });
});

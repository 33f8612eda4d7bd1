import { type DryRunReport, GodwitError, type MigrationEvent } from '@godwit/core';
import {
  type MigrationModel,
  MOST_LOG_ENTRIES,
  MOST_ROUNDS,
  MOST_SAMPLES,
  ModelBuilder,
  PatchMaker,
  patched,
} from '@godwit/observe/model';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { progressEvent, roundEvent } from './events.js';
import { BACKGROUND_EVENTS, SOURCE_EVENTS } from './scripted.js';

function builder(): ModelBuilder {
  const made = new ModelBuilder('a test');
  made.watchSource('0'.repeat(32));
  return made;
}

describe('a model', () => {
  test('of a week has a bounded size, and the whole week', () => {
    const made = builder();
    const week = 7 * 24 * 3_600_000;
    const rounds = 5000;
    for (let round = 1; round <= rounds; round++) {
      const atMs = (round * week) / rounds;
      for (const step of [0, 1, 2, 3]) made.source(progressEvent(round), atMs - 4000 + step * 1000);
      const reason = 'because '.repeat(200);
      made.source(roundEvent(round, { decision: { action: 'continue', reason } }), atMs);
      const why = { state: 'active', previous: 'reconnecting' } as const;
      made.source({ type: 'state', ...why }, atMs);
      made.source({ type: 'state', state: 'reconnecting', previous: 'active' }, atMs);
      made.source({ type: 'link-lost', reason: new GodwitError('GODWIT_LINK_LOST', 'x'.repeat(100_000)) }, atMs);
    }
    const model = made.model();
    expect(model.rounds.count).toBe(rounds);
    expect(model.rounds.kept.length).toBeLessThanOrEqual(MOST_ROUNDS);
    expect(model.rounds.kept[0]?.round).toBe(1);
    expect(model.rounds.kept.at(-1)?.round).toBe(rounds);
    expect(model.samples.atMs.length).toBeLessThanOrEqual(MOST_SAMPLES);
    expect(model.samples.atMs[0]).toBeLessThan(week / 100);
    expect(model.log.entries.length).toBeLessThanOrEqual(MOST_LOG_ENTRIES);
    expect(model.source?.states.path.length).toBeLessThanOrEqual(200);
    expect(JSON.stringify(model).length).toBeLessThan(600_000);
  });

  test('is plain JSON, also of what is infinite or not known', () => {
    const made = builder();
    made.source(progressEvent(1, { predictedDowntimeMs: undefined, remainingMs: Number.NaN }), 1);
    made.source(roundEvent(1, { predictedDowntimeMs: Number.POSITIVE_INFINITY }), 2);
    const model = made.model();
    expect(JSON.parse(JSON.stringify(model))).toEqual(model);
    expect(model.source?.progress).toMatchObject({
      predictedDowntimeMs: null,
      remainingMs: null,
      remainingRangeMs: [50, null],
    });
    expect(model.rounds.kept[0]).toMatchObject({ predictedDowntimeMs: null, predictedDowntimeRangeMs: [1, null] });
    expect(model.source?.downtime?.terms).toHaveLength(7);
  });

  test('by post-copy has the guest at the destination, whose source still owes it pages', () => {
    const made = builder();
    made.source({ type: 'ownership', ownership: 'handedOver', previous: 'paused' }, 1);
    expect(made.model().guest).toBe('between');
    made.source({ type: 'state', state: 'postcopy-active', previous: 'postcopy-device' }, 2);
    expect(made.model()).toMatchObject({ guest: 'destination', over: false });
    const completed = SOURCE_EVENTS.at(-1) as MigrationEvent & { readonly type: 'completed' };
    const postcopy = { pages: 5000, ms: 700, lostLinks: 1 };
    made.source({ type: 'completed', summary: { ...completed.summary, postcopy } }, 3);
    expect(made.model().source?.summary?.postcopy).toEqual(postcopy);
  });

  test('of a background snapshot has the guest at the source, no prediction, and no line for its progress', () => {
    const made = builder();
    for (const [n, event] of BACKGROUND_EVENTS.entries()) made.source(event, n);
    const { guest, over, source, log } = made.model();
    expect({ guest, over }).toEqual({ guest: 'source', over: true });
    expect(source?.summary?.background).toEqual({
      pages: 500,
      copied: 60,
      savingMs: 700,
      faults: 12,
      worstLatencyUs: 7,
    });
    expect(source?.downtime).toMatchObject({ predictedMs: null, predictedRangeMs: null, actualMs: 21 });
    expect(source?.downtime?.terms).toContainEqual({ term: 'ramMs', predictedMs: null, rangeMs: null, actualMs: 3 });
    expect(log.entries.map(({ text }) => text).filter((text) => text.includes('protection'))).toEqual([]);
    expect(log.entries).toHaveLength(BACKGROUND_EVENTS.filter(({ type }) => type !== 'protection').length);
  });

  test('of a dry run does not speak of a downtime', () => {
    const made = builder();
    const completed = SOURCE_EVENTS.at(-1) as MigrationEvent & { readonly type: 'completed' };
    const dryRun: DryRunReport = {
      ...{ peer: 'memory', software: 'godwit/0', version: 2, features: [], ramBytes: 4096, devices: [] },
      ...{ maximumDeviceState: 1, blockers: [] },
    };
    made.source({ type: 'completed', summary: { ...completed.summary, dryRun } }, 3);
    const { guest, source, log } = made.model();
    expect(guest).toBe('source');
    expect(source).toMatchObject({ downtime: null, summary: { downtimeMs: null, background: null } });
    expect(log.entries.map(({ text }) => text)).toEqual(['dry run completed in 4.00 s']);
  });

  test('names states, ownerships and events that it does not know', () => {
    const made = builder();
    const event = (fields: object) => made.source(fields as MigrationEvent, 5);
    event({ type: 'state', state: 'postcopy-paused', previous: 'active' });
    event({ type: 'ownership', ownership: 'lent', previous: 'running' });
    event({ type: 'moon-rises' });
    const { source, guest, log } = made.model();
    expect(source?.states.state).toBe('postcopy-paused');
    expect(source?.states.visits.map(({ state }) => state)).toEqual(['none', 'postcopy-paused']);
    expect(source?.ownership).toBe('lent');
    expect(guest).toBe('unknown');
    expect(log.entries.at(-1)).toMatchObject({ level: 'info', text: 'moon-rises' });
  });

  test('counts how long each state was, over all visits', () => {
    const made = builder();
    const enter = (state: string, atMs: number) => made.source({ type: 'state', state } as MigrationEvent, atMs);
    enter('setup', 10);
    enter('active', 30);
    enter('reconnecting', 100);
    enter('active', 150);
    enter('device', 400);
    expect(made.model().source?.states.visits).toEqual([
      { state: 'none', times: 1, totalMs: 10, enteredMs: 0 },
      { state: 'setup', times: 1, totalMs: 20, enteredMs: 10 },
      { state: 'active', times: 2, totalMs: 320, enteredMs: 150 },
      { state: 'reconnecting', times: 1, totalMs: 50, enteredMs: 100 },
      { state: 'device', times: 1, totalMs: 0, enteredMs: 400 },
    ]);
  });

  test('has the rate of each tracker over the time of its harvest', () => {
    const made = builder();
    const trackers = [
      { name: 'kvm', dirtyPages: 400, exact: true, failed: false },
      { name: 'vfio', dirtyPages: 200, exact: false, failed: false, blindSpots: 'the CPU' },
    ];
    made.source(roundEvent(1, { trackers, newlyDirtyPages: 500, dirtyPagesPerSecond: 1000 }), 1);
    // No harvest follows the last round, so that the trackers' last reports stay.
    made.source(roundEvent(2, { trackers: [], phase: 'stop-and-copy' }), 2);
    const model = made.model();
    expect(model.rounds.kept[0]?.trackers).toEqual([
      { name: 'kvm', dirtyPages: 400, pagesPerSecond: 800, failed: false },
      { name: 'vfio', dirtyPages: 200, pagesPerSecond: 400, failed: false },
    ]);
    expect(model.source?.trackers).toEqual([
      { name: 'kvm', exact: true, blindSpots: null },
      { name: 'vfio', exact: false, blindSpots: 'the CPU' },
    ]);
  });

  test('stops its clock and its curves with the last event', () => {
    const made = builder();
    made.source(progressEvent(1), 100);
    made.source({ type: 'failed', error: new GodwitError('GODWIT_CANCELLED', 'enough') }, 200);
    made.source(progressEvent(1), 300);
    const model = made.model();
    expect(model).toMatchObject({ over: true, elapsedMs: 200, source: { error: { code: 'GODWIT_CANCELLED' } } });
    expect(model.samples.atMs).toEqual([100]);
  });
});

test('patches, whenever they are taken, make the same model', () => {
  const step = fc.record({ events: fc.integer({ min: 0, max: 150 }), whole: fc.boolean() });
  fc.assert(
    fc.property(fc.array(step, { minLength: 1, maxLength: 12 }), (steps) => {
      const made = builder();
      const patches = new PatchMaker(made);
      let viewer: MigrationModel | undefined;
      let atMs = 0;
      let round = 0;
      for (const { events, whole } of steps) {
        for (let i = 0; i < events; i++) {
          atMs += 20;
          made.source(progressEvent(round, { wireBytesPerSecond: atMs }), atMs);
          if (i % 3 === 0) made.source(roundEvent(++round), atMs);
        }
        // A viewer gets patches as JSON.
        const sent = (patch: object) => JSON.parse(JSON.stringify(patch));
        if (whole) viewer = patched(viewer, sent(patches.whole()));
        viewer = patched(viewer, sent(patches.next()));
        expect(viewer).toEqual(made.model());
      }
    }),
    { numRuns: 30 },
  );
});

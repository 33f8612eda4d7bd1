import type { DowntimeRanges, DowntimeTerms, MigrationSummary, RoundRecord } from '@godwit/core';
import { cellsText, FIRST_CELLS, nextCells } from '@godwit/example-node-vmm/guest';
import type { DemoEvent, TimedEvent } from '../../dist/demo/demo-event.js';
import type { GuestSpec } from '../../dist/vmm/guest-spec.js';

const MIB = 2 ** 20;

export const SPEC: GuestSpec = {
  kind: 'kvm',
  memoryBytes: 512 * MIB,
  vcpus: 2,
  dirtyPagesPerSecond: 20_000,
  workingSetBytes: 192 * MIB,
  order: 'random',
  wholePages: false,
  heartbeatMs: 100,
};

const PREDICTION: DowntimeTerms = {
  pauseMs: 0.4,
  harvestMs: 0.5,
  ramMs: 30,
  deviceMs: 0.8,
  loadMs: 2.5,
  roundTripMs: 0.6,
  resumeMs: 0.3,
};

const PREDICTION_RANGE: DowntimeRanges = {
  pauseMs: [0.2, 0.8],
  harvestMs: [0.3, 1],
  ramMs: [15, 60],
  deviceMs: [0.4, 1.6],
  loadMs: [1.2, 5],
  roundTripMs: [0.3, 1.2],
  resumeMs: [0.1, 0.6],
};

function round(number: number, pages: number, phase: RoundRecord['phase'], predictedDowntimeMs: number): RoundRecord {
  return {
    round: number,
    phase,
    dirtyPages: pages,
    deferredPages: 0,
    pages: { raw: pages - 100, zero: 100, hole: number === 1 ? 80_000 : 0, delta: 0, compressed: 0 },
    rawBytes: pages * 4096,
    wireBytes: pages * 4100,
    deviceBytes: 0,
    savedBytes: 0,
    harvestMs: 0.3,
    scanMs: 2,
    sendMs: pages / 30,
    limitMs: 0,
    totalMs: pages / 30,
    endedAtMs: pages / 30,
    linkBytesPerSecond: 900 * MIB,
    newlyDirtyPages: pages * 0.6,
    trackers: [{ name: 'pagemap', dirtyPages: 400, exact: true, failed: false }],
    throttle: 0,
    dirtyPagesPerSecond: 19_000,
    predictedDowntimeMs,
    predictedDowntimeRangeMs: [predictedDowntimeMs * 0.7, predictedDowntimeMs * 1.5],
    prediction: PREDICTION,
    predictionRange: PREDICTION_RANGE,
    decision:
      phase === 'stop-and-copy' || predictedDowntimeMs < 100
        ? { action: 'switchover', reason: 'below the limit' }
        : { action: 'continue', reason: 'above the limit' },
  };
}

/** A whole run as the controller would see it, without any process. */
export function syntheticRun(): readonly TimedEvent[] {
  const events: TimedEvent[] = [];
  let atMs = 0;
  let beat = 0;
  let cells = FIRST_CELLS;
  const at = (ms: number, event: DemoEvent) => {
    atMs += ms;
    events.push({ ...event, atMs });
  };
  const console = (host: 'source' | 'destination', stallMs = 1.8) => {
    cells = nextCells(cells);
    at(100, {
      event: 'console',
      host,
      text: `[guest] heartbeat ${String(++beat).padStart(6, '0')} clock=${Math.round(atMs * 1000)}us gap=100031us stall=${Math.round(stallMs * 1000)}us writes=${beat * 2000} mail=${beat} |${cellsText(cells)}|`,
      beat,
    });
  };

  at(1, { event: 'hosts', source: 4711, destination: 4712 });
  at(1, { event: 'phase', phase: 'booting' });
  at(5, {
    event: 'guest',
    host: 'source',
    spec: SPEC,
    settings: {
      ...{ transport: 'tcp', downtimeLimitMs: 100, maxBandwidth: 128 * MIB, postcopy: false, postcopyBandwidth: 0 },
      ...{ roundTrips: 0, verify: true },
    },
  });
  at(1, { event: 'phase', phase: 'warming-up' });
  for (let i = 0; i < 20; i++) console('source');
  at(1, { event: 'phase', phase: 'migrating' });
  at(1, { event: 'hop', hop: 1, from: 'source', to: 'destination', peer: 'tcp://127.0.0.1:40123' });
  at(1, { event: 'state', state: 'setup', previous: 'none' });
  at(1, { event: 'state', state: 'active', previous: 'setup' });
  const sizes = [49_500, 30_100, 18_700, 11_600, 7200, 4400, 2700];
  const rounds: RoundRecord[] = [];
  let wireBytes = 0;
  sizes.forEach((pages, index) => {
    at(1, { event: 'round-start', round: index + 1, dirtyPages: pages });
    for (let part = 1; part <= 4; part++) {
      wireBytes += pages * 1025;
      console('source');
      at(pages / 120, {
        event: 'progress',
        state: 'active',
        elapsedMs: atMs - 2000,
        round: index + 1,
        roundPagesSent: (pages * part) / 4,
        roundPages: pages,
        pages: { raw: pages, zero: 100, hole: 80_000, delta: 0, compressed: 0 },
        rawBytes: wireBytes,
        wireBytes,
        deviceBytes: 0,
        savedBytes: 0,
        wireBytesPerSecond: (120 + part) * MIB,
        dirtyPagesPerSecond: index === 0 ? 0 : 19_000 + part * 250,
        predictedDowntimeMs: index === 0 ? undefined : pages / 60,
        remainingMs: index === 0 ? undefined : pages / 10,
        throttle: 0,
        remainingRangeMs: index === 0 ? undefined : [pages / 12, pages / 8],
      });
    }
    const record = round(index + 1, pages, index === sizes.length - 1 ? 'stop-and-copy' : 'pre-copy', pages / 60);
    rounds.push(record);
    at(1, { event: 'round', ...record });
  });
  at(1, { event: 'state', state: 'device', previous: 'active' });
  at(400, { event: 'compared', pages: 49_500, verifyMs: 412 });
  const summary: MigrationSummary = {
    migrationId: 'b2c9',
    totalMs: 4120,
    downtimeMs: 38.2,
    predictedDowntimeMs: 35.1,
    predictedDowntimeRangeMs: [20.2, 66.4],
    downtime: {
      pauseMs: { predictedMs: 0.4, rangeMs: [0.2, 0.8], actualMs: 0.6 },
      harvestMs: { predictedMs: 0.5, rangeMs: [0.25, 1.0], actualMs: 0.7 },
      ramMs: { predictedMs: 30, rangeMs: [15.0, 60.0], actualMs: 31.9 },
      deviceMs: { predictedMs: 0.8, rangeMs: [0.4, 1.6], actualMs: 1.1 },
      loadMs: { predictedMs: 2.5, rangeMs: [1.25, 5.0], actualMs: 2.9 },
      roundTripMs: { predictedMs: 0.6, rangeMs: [0.3, 1.2], actualMs: 0.6 },
      resumeMs: { predictedMs: 0.3, rangeMs: [0.15, 0.6], actualMs: 0.4 },
    },
    verifyMs: 412,
    heldMs: 0,
    verified: true,
    verifiedPages: 49_500,
    rounds,
    pages: { raw: 124_000, zero: 700, hole: 80_000, delta: 0, compressed: 0 },
    rawBytes: 508_000_000,
    wireBytes,
    deviceBytes: 0,
    outsideRoundsBytes: 2048,
    savedBytes: 0,
    attempts: [],
    throttledMs: 0,
    shadows: [],
    runState: 'running',
  };
  at(1, { event: 'state', state: 'completed', previous: 'device' });
  at(1, { event: 'migrated', hop: 1, ...summary });
  at(1, {
    event: 'received',
    hop: 1,
    host: 'destination',
    summary: {
      migrationId: 'b2c9',
      rounds: 7,
      pages: { raw: 124_000, zero: 700, delta: 0, compressed: 0 },
      wireBytes,
      loadMs: 2.9,
      resumeMs: 0.4,
      verified: true,
      runState: 'running',
    },
  });
  at(1, { event: 'memory', host: 'source', guestBytes: 210 * MIB, residentBytes: 300 * MIB });
  console('destination');
  console('destination', 455.2);
  at(1, { event: 'gap', hop: 1, guestGapMs: 455.2 });
  at(1, { event: 'phase', phase: 'settling' });
  for (let i = 0; i < 10; i++) console('destination');
  at(1, { event: 'phase', phase: 'checking' });
  at(20, { event: 'checked', host: 'destination', pages: 49_152, defects: [] });
  at(1, {
    event: 'completed',
    verified: true,
    totalMs: 4120,
    downtimeMs: 38.2,
    verifyMs: 412,
    guestGapMs: 455.2,
    rounds: 7,
    wireBytes,
    predictedDowntimeMs: 35.1,
    migrations: 1,
    pagesCompared: 49_500,
    beats: beat,
    defects: 0,
    distribution: {
      loadMs: { median: 2.9, p95: 2.9, max: 2.9 },
      downtimeMs: { median: 38.2, p95: 38.2, max: 38.2 },
      downtimeLimitMs: 100,
      overLimit: 0,
      unannounced: 0,
      events: { 'went-back': 0, 'not-prepared': 0, 'downtime-exceeded': 0 },
    },
  });
  return events;
}

import type { MigrationEvent, RoundRecord } from '@godwit/core';

const TERMS = { pauseMs: 1, harvestMs: 1, ramMs: 1, deviceMs: 1, loadMs: 1, roundTripMs: 1, resumeMs: 1 };
const RANGE = [0, 2] as const;
const RANGES = {
  ...{ pauseMs: RANGE, harvestMs: RANGE, ramMs: RANGE, deviceMs: RANGE },
  ...{ loadMs: RANGE, roundTripMs: RANGE, resumeMs: RANGE },
};

/** A made-up round, for models that no real migration is long enough for. */
export function roundEvent(round: number, changed: Partial<RoundRecord> = {}): MigrationEvent {
  return {
    type: 'round',
    round: {
      ...{ round, phase: 'pre-copy', dirtyPages: 1000, deferredPages: 0 },
      pages: { raw: 1000, zero: 0, hole: 0, delta: 0, compressed: 0 },
      ...{ rawBytes: 4_096_000, wireBytes: 4_100_000, deviceBytes: 0, savedBytes: 0 },
      ...{ harvestMs: 1, scanMs: 1, sendMs: 30, limitMs: 0, totalMs: 40, endedAtMs: 40, throttle: 0 },
      ...{ linkBytesPerSecond: 1e8, newlyDirtyPages: 500, dirtyPagesPerSecond: 1000 },
      trackers: [{ name: 'kvm', dirtyPages: 500, exact: true, failed: false }],
      ...{ predictedDowntimeMs: 7, predictedDowntimeRangeMs: [1, Number.POSITIVE_INFINITY] },
      ...{ prediction: TERMS, predictionRange: RANGES },
      decision: { action: 'continue', reason: 'too much is left' },
      ...changed,
    },
  };
}

export function progressEvent(round: number, changed: object = {}): MigrationEvent {
  return {
    type: 'progress',
    progress: {
      ...{ state: 'active', elapsedMs: 0, round, roundPagesSent: 10, roundPages: 20 },
      pages: { raw: 10, zero: 0, hole: 0, delta: 0, compressed: 0 },
      ...{ rawBytes: 40_960, wireBytes: 41_000, deviceBytes: 0, savedBytes: 0 },
      ...{ wireBytesPerSecond: 5e7, dirtyPagesPerSecond: 100, predictedDowntimeMs: 7 },
      ...{ remainingMs: 100, remainingRangeMs: [50, Number.POSITIVE_INFINITY] as const, throttle: 0 },
      ...changed,
    },
  };
}

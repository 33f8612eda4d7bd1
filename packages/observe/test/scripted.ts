import {
  GodwitError,
  type IncomingEvent,
  type MigrationEvent,
  type MigrationSummary,
  type ProtectionStatus,
} from '@godwit/core';
import { progressEvent, roundEvent } from './events.js';

const FAULTS = {
  ...{ pagesMissing: 7, pagesTotal: 100, faults: 40, faultsPerSecond: 3, zeroFaults: 1, duplicatePages: 0 },
  ...{ latencyDistribution: [0, 0, 3, 30, 7], worstLatencyUs: 27, waitingUs: 0, pagesLost: 0, remainingMs: 500 },
  blocked: [{ thread: 1, faults: 40, blockedUs: 900 }],
};

const LOST = new GodwitError('GODWIT_LINK_LOST', 'reset by peer');
const PAGES = { raw: 500, zero: 20, hole: 30, delta: 4, compressed: 5 };

/** Events of a source that change every metric. No single real migration has all of them. */
export const SOURCE_EVENTS: readonly MigrationEvent[] = [
  { type: 'state', state: 'setup', previous: 'none' },
  { type: 'state', state: 'active', previous: 'setup' },
  { type: 'round-start', round: 1, dirtyPages: 1000 },
  progressEvent(1, { wireBytes: 1000, savedBytes: 10, throttle: 0.2, pages: PAGES }),
  { type: 'throttle', fraction: 0.3, previous: 0, reason: 'it does not converge' },
  roundEvent(1),
  { type: 'link-lost', reason: LOST },
  { type: 'warning', code: 'GODWIT_UNSUPPORTED', message: 'no such encoding' },
  { type: 'state', state: 'device', previous: 'active' },
  {
    ...{ type: 'went-back', attempt: 1, term: 'loadMs', elapsedMs: 512, limitMs: 500 },
    reason: new GodwitError('GODWIT_SWITCHOVER_OVERRAN', 'it took too long'),
  },
  { type: 'state', state: 'active', previous: 'device' },
  // The totals are lower than before, as after a lost connection. The counters must not fall.
  progressEvent(2, { wireBytes: 900, savedBytes: 10, pages: PAGES }),
  { type: 'state', state: 'completed', previous: 'device' },
  { type: 'completed', summary: summary() },
];

/** A background snapshot: the guest is paused for 21 ms, then saved while it runs, and stays at the source. */
export const BACKGROUND_EVENTS: readonly MigrationEvent[] = [
  { type: 'state', state: 'setup', previous: 'none' },
  { type: 'state', state: 'active', previous: 'setup' },
  { type: 'state', state: 'device', previous: 'active' },
  { type: 'ownership', ownership: 'paused', previous: 'running' },
  { type: 'ownership', ownership: 'running', previous: 'paused' },
  { type: 'state', state: 'active', previous: 'device' },
  { type: 'protection', protection: protection(400) },
  { type: 'protection', protection: protection(0) },
  { type: 'ownership', ownership: 'kept', previous: 'running' },
  { type: 'state', state: 'completed', previous: 'active' },
  {
    type: 'completed',
    summary: {
      ...summary(),
      ...{ predictedDowntimeMs: 0, predictedDowntimeRangeMs: [0, 0] },
      background: {
        ...{ pausedMs: 21, stopMs: 1, devicesMs: 2, freezeMs: 8, resumeMs: 10 },
        ...{ protectMs: 50, savingMs: 700, pagesFrozen: 30, protection: protection(0) },
      },
    },
  },
];

/** Events of a destination that change every metric. */
export const DESTINATION_EVENTS: readonly IncomingEvent[] = [
  {
    ...{ type: 'hello', migrationId: '0'.repeat(32), peer: 'memory', description: null, dryRun: false },
  },
  { type: 'state', state: 'active', previous: 'setup' },
  { type: 'progress', pages: { raw: 5, zero: 2, delta: 0, compressed: 0 }, wireBytes: 700 },
  { type: 'round', round: 1, pages: 1000 },
  { type: 'link-lost', reason: LOST },
  { type: 'warning', code: 'GODWIT_UNSUPPORTED', message: 'no such encoding' },
  { type: 'running', resumeMs: 1 },
  { type: 'faults', faults: FAULTS },
  { type: 'failed', error: new GodwitError('GODWIT_PAGES_MISSING', 'seven pages never came') },
];

/** Passes on events as a role does: all in one tick once it is subscribed to. */
export function scripted<E>(events: readonly E[]) {
  return {
    subscribe(next: (event: E) => void) {
      for (const event of events) next(event);
      return { unsubscribe() {} };
    },
  };
}

function protection(pagesLeft: number): ProtectionStatus {
  return {
    ...{ pagesLeft, pagesTotal: 500, pagesCopied: 60, writtenBytes: 4096 * (500 - pagesLeft) },
    ...{ faults: 12, faultsPerSecond: 3, faultsWithoutRoom: 0, latencyDistribution: [0, 4, 8], worstLatencyUs: 7 },
    ...{ blocked: [], bufferBytes: 2 ** 20, bufferedBytes: 0, bufferHighBytes: 8192 },
  };
}

function summary(): MigrationSummary {
  const term = { predictedMs: 1, rangeMs: [0, 2] as const, actualMs: 3 };
  return {
    ...{ migrationId: '0'.repeat(32), totalMs: 4000, downtimeMs: 21, predictedDowntimeMs: 7 },
    predictedDowntimeRangeMs: [1, 30],
    downtime: {
      ...{ pauseMs: term, harvestMs: term, ramMs: term, deviceMs: term, loadMs: term, roundTripMs: term },
      resumeMs: term,
    },
    ...{ verifyMs: 0, heldMs: 0, verified: false, verifiedPages: 0, rounds: [], pages: PAGES },
    ...{ rawBytes: 5000, wireBytes: 2500, deviceBytes: 10, outsideRoundsBytes: 5, savedBytes: 90 },
    ...{ attempts: [], throttledMs: 100, shadows: [], runState: 'running' },
  };
}

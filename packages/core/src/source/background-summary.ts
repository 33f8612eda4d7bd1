import type { MigrationSummary } from '../migration-event.js';
import type { ProtectionStatus } from '../protect/protection-status.js';
import { noPages } from '../round-record.js';
import { compareTerms, NO_FORECAST } from './downtime-terms.js';
import type { SourceContext } from './source-context.js';

/** When each step of a background snapshot ended, in milliseconds of the source's clock, in this order. */
export interface BackgroundTimes {
  readonly begun: number;
  readonly protectedAt: number;
  /** `pause` was called. */
  readonly start: number;
  readonly stopped: number;
  readonly saved: number;
  readonly frozen: number;
  readonly resumed: number;
  readonly allSaved: number;
  /** Pages that were protected again. */
  readonly pagesFrozen: number;
}

/** The summary of a background snapshot: the guest runs here, and nothing was predicted. */
export function backgroundSummary(
  { options, meter, vm, session, guest, devices, background }: SourceContext,
  times: BackgroundTimes,
  protection: ProtectionStatus,
): MigrationSummary {
  const { pageSize } = vm.memory;
  const raw = protection.writtenBytes / pageSize;
  const { begun, protectedAt, start, stopped, saved, frozen, resumed, allSaved, pagesFrozen } = times;
  const [stopMs, devicesMs, freezeMs, resumeMs] = [stopped - start, saved - stopped, frozen - saved, resumed - frozen];
  const pausedMs = resumed - start;
  const actual = {
    ...{ pauseMs: stopMs, harvestMs: freezeMs, ramMs: 0, deviceMs: devicesMs, loadMs: 0, roundTripMs: 0, resumeMs },
  };
  const wireBytes = session.wireBytes + background.bytes;
  return {
    migrationId: options.migrationId,
    totalMs: meter.elapsedMs,
    downtimeMs: pausedMs,
    predictedDowntimeMs: 0,
    predictedDowntimeRangeMs: [0, 0],
    downtime: compareTerms(NO_FORECAST.prediction, NO_FORECAST.predictionRange, actual),
    ...{ verifyMs: 0, heldMs: 0, verified: false, verifiedPages: 0 },
    rounds: [],
    pages: { ...noPages(), raw, zero: protection.pagesTotal - raw },
    rawBytes: protection.pagesTotal * pageSize,
    savedBytes: 0,
    wireBytes,
    deviceBytes: devices.writtenBytes,
    outsideRoundsBytes: wireBytes,
    ...{ attempts: [], throttledMs: 0, shadows: [] },
    runState: guest.runState,
    background: {
      ...{ pausedMs, stopMs, devicesMs, freezeMs, resumeMs },
      protectMs: protectedAt - begun,
      savingMs: allSaved - resumed,
      pagesFrozen,
      protection,
    },
  };
}

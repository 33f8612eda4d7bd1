import type { DowntimeTerm } from '../migration-event.js';
import type { DowntimeTerms } from '../round-record.js';

/** Predicted against actual, term by term. */
export function compareTerms(
  predicted: DowntimeTerms,
  actual: DowntimeTerms,
): Record<keyof DowntimeTerms, DowntimeTerm> {
  const term = (name: keyof DowntimeTerms): DowntimeTerm => ({ predictedMs: predicted[name], actualMs: actual[name] });
  return {
    pauseMs: term('pauseMs'),
    harvestMs: term('harvestMs'),
    ramMs: term('ramMs'),
    deviceMs: term('deviceMs'),
    loadMs: term('loadMs'),
    roundTripMs: term('roundTripMs'),
    resumeMs: term('resumeMs'),
  };
}

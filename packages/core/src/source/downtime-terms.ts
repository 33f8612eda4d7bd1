import type { Forecast } from '../convergence/downtime-model.js';
import type { DowntimeTerm } from '../migration-event.js';
import type { DowntimeRanges, DowntimeTerms } from '../round-record.js';

/** The terms, in the order of the switchover's steps. */
export const TERMS = ['pauseMs', 'harvestMs', 'ramMs', 'deviceMs', 'loadMs', 'roundTripMs', 'resumeMs'] as const;

/** Pairs the predicted with the actual milliseconds, term by term. */
export function compareTerms(
  predicted: DowntimeTerms,
  ranges: DowntimeRanges,
  actual: DowntimeTerms,
): Record<keyof DowntimeTerms, DowntimeTerm> {
  const term = (name: keyof DowntimeTerms): DowntimeTerm => ({
    predictedMs: predicted[name],
    rangeMs: ranges[name],
    actualMs: actual[name],
  });
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

/** A prediction whose terms are all 0. */
export const NO_FORECAST: Forecast = {
  prediction: { pauseMs: 0, harvestMs: 0, ramMs: 0, deviceMs: 0, loadMs: 0, roundTripMs: 0, resumeMs: 0 },
  predictionRange: {
    pauseMs: [0, 0],
    harvestMs: [0, 0],
    ramMs: [0, 0],
    deviceMs: [0, 0],
    loadMs: [0, 0],
    roundTripMs: [0, 0],
    resumeMs: [0, 0],
  },
  predictedDowntimeMs: 0,
  predictedDowntimeRangeMs: [0, 0],
};

/** The terms of a migration that never paused the guest: all 0. */
export function noTerms(): Record<keyof DowntimeTerms, DowntimeTerm> {
  const { prediction, predictionRange } = NO_FORECAST;
  return compareTerms(prediction, predictionRange, prediction);
}

/** The term that exceeded its prediction by the most milliseconds. */
export function worstTerm(predicted: DowntimeTerms, actual: DowntimeTerms): keyof DowntimeTerms {
  const excess = (name: keyof DowntimeTerms) => actual[name] - predicted[name];
  return TERMS.reduce((worst, name) => (excess(name) > excess(worst) ? name : worst));
}

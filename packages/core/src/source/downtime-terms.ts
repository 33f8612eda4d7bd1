import type { DowntimeTerm } from '../migration-event.js';
import type { DowntimeTerms } from '../round-record.js';

/** The terms, in the order of the switchover's steps. */
export const TERMS = ['pauseMs', 'harvestMs', 'ramMs', 'deviceMs', 'loadMs', 'roundTripMs', 'resumeMs'] as const;

/** Pairs the predicted with the actual milliseconds, term by term. */
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

/** The terms of a migration that never paused the guest: all 0. */
export function noTerms(): Record<keyof DowntimeTerms, DowntimeTerm> {
  const none = { pauseMs: 0, harvestMs: 0, ramMs: 0, deviceMs: 0, loadMs: 0, roundTripMs: 0, resumeMs: 0 };
  return compareTerms(none, none);
}

/** The term that exceeded its prediction by the most milliseconds. */
export function worstTerm(predicted: DowntimeTerms, actual: DowntimeTerms): keyof DowntimeTerms {
  const excess = (name: keyof DowntimeTerms) => actual[name] - predicted[name];
  return TERMS.reduce((worst, name) => (excess(name) > excess(worst) ? name : worst));
}

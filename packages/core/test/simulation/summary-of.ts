import type { MigrationSummary } from '@godwit/core';
import type { Simulation } from '@godwit/core/simulation';

/** The summary of a guest that came over. */
export function summaryOf({ summary, outcome, error }: Simulation): MigrationSummary {
  if (summary === undefined) throw new Error(`it was not moved: ${outcome}, ${error?.message}`);
  return summary;
}

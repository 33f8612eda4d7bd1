import type { MigrationSummary } from '@godwit/core';
import type { Result } from './demo-event.js';

/** The summary of one migration without its rounds, since those of a hundred migrations are kept. */
export type Figures = Omit<MigrationSummary, 'rounds'>;

/** The counts of the whole run. */
type Counts = Pick<Result, 'guestGapMs' | 'rounds' | 'beats' | 'defects' | 'distribution'> & {
  /** Whether both sides are compared, which they are not by post-copy. */
  readonly compares: boolean;
};

/** The result of the migrations that have completed, of which there is at least one. The order of the keys is part of the format. */
export function resultOf(summaries: readonly Figures[], counts: Counts): Result {
  const sum = (pick: (figures: Figures) => number) => summaries.reduce((total, figures) => total + pick(figures), 0);
  const most = (pick: (figures: Figures) => number) => Math.max(...summaries.map(pick));
  return {
    verified: counts.defects === 0 && (!counts.compares || summaries.every(({ verified }) => verified)),
    totalMs: sum(({ totalMs }) => totalMs),
    downtimeMs: most(({ downtimeMs }) => downtimeMs),
    verifyMs: most(({ verifyMs }) => verifyMs),
    guestGapMs: counts.guestGapMs,
    rounds: counts.rounds,
    wireBytes: sum(({ wireBytes }) => wireBytes),
    predictedDowntimeMs: most(({ predictedDowntimeMs }) => predictedDowntimeMs),
    migrations: summaries.length,
    pagesCompared: sum(({ verifiedPages }) => verifiedPages),
    beats: counts.beats,
    defects: counts.defects,
    distribution: counts.distribution,
  };
}

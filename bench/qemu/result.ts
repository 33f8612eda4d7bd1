import { cpus, release, totalmem } from 'node:os';
import { median } from '../report.js';
import { type Case, FIGURES, type FigureName, type Sample } from './sample.js';

/** Several values of one figure, without those that are NaN. */
export interface Spread {
  readonly median: number;
  readonly least: number;
  readonly most: number;
  /** Number of values that are NaN: what they measure did not come while it was awaited. Left out where there are none. */
  readonly never?: number;
}

export interface EntrantResult {
  readonly name: string;
  readonly figures: Readonly<Partial<Record<FigureName, Spread>>>;
  readonly samples: readonly Sample[];
  /** The errors of failed runs. */
  readonly problems: readonly string[];
}

export interface CaseResult {
  readonly name: string;
  readonly title: string;
  readonly columns: readonly FigureName[];
  readonly mayNeverEnd: boolean;
  readonly entrants: readonly EntrantResult[];
}

/** The result of a run of the judge, as `--json` prints it. */
export interface Verdict {
  readonly benchmark: 'qemu';
  /** ISO 8601, the day. */
  readonly date: string;
  readonly machine: string;
  readonly versions: readonly string[];
  readonly rounds: number;
  readonly cases: readonly CaseResult[];
}

export function spreadOf(values: readonly number[]): Spread {
  const there = values.filter((value) => !Number.isNaN(value));
  const never = values.length - there.length;
  return {
    ...{ median: median(there), least: Math.min(...there), most: Math.max(...there) },
    ...(never > 0 && { never }),
  };
}

/** Summarizes an entrant's runs. A run may lack a figure: one that ends before it was queried has no prediction. */
export function entrantResult(name: string, samples: readonly Sample[], problems: readonly string[]): EntrantResult {
  const figures: Partial<Record<FigureName, Spread>> = {};
  for (const figure of Object.keys(FIGURES) as FigureName[]) {
    const values = samples.flatMap((sample) => sample.figures[figure] ?? []);
    if (values.length > 0) figures[figure] = spreadOf(values);
  }
  return { name, figures, samples, problems };
}

export function caseResult(
  { name, title, columns, mayNeverEnd }: Case,
  entrants: readonly EntrantResult[],
): CaseResult {
  return { name, title, columns, mayNeverEnd, entrants };
}

/** True when no run failed and every guest's memory was right. */
export function isSound({ cases }: Verdict): boolean {
  return cases.every(({ entrants }) =>
    entrants.every(
      ({ samples, problems }) => problems.length === 0 && samples.every(({ wrong }) => wrong === undefined),
    ),
  );
}

export function thisMachine(): string {
  const processors = cpus();
  const memory = Math.round(totalmem() / 2 ** 30);
  return `${processors.length} cores (${processors[0]?.model.trim()}), ${memory} GiB, Linux ${release()}`;
}

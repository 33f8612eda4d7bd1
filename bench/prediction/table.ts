import { median } from '../report.js';
import type { PredictionCase } from './cases.js';
import type { Outcome } from './host-messages.js';
import type { Simulated } from './simulated.js';

/** One migration of a case. */
export interface Run extends Outcome {
  readonly name: string;
  /** Whether the actual downtime lay inside the interval. */
  readonly inside: boolean;
  /** Actual minus predicted, in milliseconds. */
  readonly errorMs: number;
}

export interface Totals {
  readonly runs: number;
  readonly inside: number;
  readonly share: number;
  readonly medianErrorMs: number;
  /** The median of the predicted downtime divided by the actual one. */
  readonly medianError: number;
  /** The number of runs whose prediction is within a fifth, or 3 ms, of the actual downtime. */
  readonly near: number;
}

export function runOf({ name }: PredictionCase, outcome: Outcome): Run {
  const { predictedMs, rangeMs, actualMs } = outcome;
  const inside = actualMs >= rangeMs[0] && actualMs <= rangeMs[1];
  return { name, ...outcome, inside, errorMs: actualMs - predictedMs };
}

export function totalsOf(runs: readonly Run[]): Totals {
  const inside = runs.filter((run) => run.inside).length;
  const errors = runs.map(({ errorMs }) => Math.abs(errorMs));
  const relative = runs.map(({ errorMs, actualMs }) => Math.abs(errorMs) / actualMs);
  return {
    runs: runs.length,
    inside,
    share: inside / runs.length,
    medianErrorMs: median(errors),
    medianError: median(relative),
    near: runs.filter(({ errorMs, actualMs }) => Math.abs(errorMs) <= Math.max(3, actualMs / 5)).length,
  };
}

const ms = (value: number): string => value.toFixed(value < 10 ? 1 : 0);

/** `predicted [interval] actual`, and the error. */
export function line(run: Run): string {
  const interval = `[${ms(run.rangeMs[0])}, ${ms(run.rangeMs[1])}]`;
  const error = `${run.errorMs >= 0 ? '+' : ''}${ms(run.errorMs)}`;
  const columns = [
    run.name.padEnd(30),
    ms(run.predictedMs).padStart(7),
    interval.padStart(14),
    ms(run.actualMs).padStart(8),
    (run.inside ? 'inside' : 'OUTSIDE').padStart(9),
    error.padStart(8),
    String(run.rounds).padStart(7),
    ...(run.simulated === undefined ? [] : [simulated(run, run.simulated)]),
  ];
  return columns.join(' ');
}

/** The total time and the downtime, live and simulated. */
function simulated({ totalMs, actualMs }: Run, { totalMs: total, downtimeMs: down }: Simulated): string {
  return `  total ${ms(totalMs)} / ${ms(total)}, downtime ${ms(actualMs)} / ${ms(down)}`;
}

export const SIMULATED_HEAD = '  live / simulated, ms';

/** The errors of the simulated total times and downtimes, with the worst cases: a line each, or an empty text. */
export function simulatedSummary(runs: readonly Run[]): string {
  const compared = runs.flatMap(({ name, totalMs, actualMs, simulated: other }) =>
    other === undefined ? [] : [{ name, total: off(other.totalMs, totalMs), down: off(other.downtimeMs, actualMs) }],
  );
  if (compared.length === 0) return '';
  return [
    offLine(
      'total time',
      compared.map(({ name, total }) => ({ name, error: total })),
    ),
    offLine(
      'downtime',
      compared.map(({ name, down }) => ({ name, error: down })),
    ),
  ].join('');
}

function off(simulatedMs: number, liveMs: number): number {
  return Math.abs(simulatedMs - liveMs) / liveMs;
}

function offLine(what: string, errors: readonly { readonly name: string; readonly error: number }[]): string {
  const worst = errors.reduce((a, b) => (b.error > a.error || Number.isNaN(b.error) ? b : a));
  const middle = median(errors.map(({ error }) => error));
  const percent = (share: number) => `${(share * 100).toFixed(0)} %`;
  return `simulated ${what}: ${percent(middle)} off in the median; the worst, ${percent(worst.error)}: ${worst.name}\n`;
}

export const HEAD = [
  'downtime, ms'.padEnd(30),
  'predict'.padStart(7),
  '90 % of cases'.padStart(14),
  'actual'.padStart(8),
  ''.padStart(9),
  'error'.padStart(8),
  'rounds'.padStart(7),
].join(' ');

export function summary(totals: Totals): string {
  const { runs, inside, share, medianErrorMs, medianError, near } = totals;
  return [
    `inside the interval: ${inside} of ${runs} (${(share * 100).toFixed(0)} %; it is meant to have 90 %)`,
    `median error: ${ms(medianErrorMs)} ms, ${(medianError * 100).toFixed(0)} % of the actual downtime`,
    `within 20 % or 3 ms: ${near} of ${runs}`,
  ].join('\n');
}

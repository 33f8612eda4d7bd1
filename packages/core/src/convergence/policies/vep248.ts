import { checkOptions, inRange } from '../../argument.js';
import { type ConvergencePolicy, PATIENCE, type PolicyInput } from '../policy.js';
import { completedRounds } from './completed-rounds.js';

/** The parameters of `vep248`, with the defaults of its proposal. */
export interface Vep248Options {
  /** Time without progress that is a stall (`stallProgressTimeout`). Milliseconds; default 40,000. */
  readonly progressTimeoutMs?: number;
  /** The most that the guest may be down for after a stall (`maxDowntimeMs`). Milliseconds; default 900. */
  readonly maxDowntimeMs?: number;
  /** What is owed may be so much above the best and count as the best (`stallMargin`); default 0.04. */
  readonly margin?: number;
  /** A downtime this many times `maxDowntimeMs` is hopeless (`precopyPossibleFactor`); default 1.5. */
  readonly hopelessFactor?: number;
  /** By how much patience shrinks with each target that was not reached (`patienceWindowDecayFactor`); default 0.5. */
  readonly patienceDecay?: number;
}

/** Patience does not shrink below this. Milliseconds. */
const LEAST_PATIENCE_MS = 1000;

/** The end of a round, and when it was on the migration's clock. */
interface Sample {
  readonly at: number;
  readonly pages: number;
}

/**
 * The stall detector of KubeVirt's VEP 248 (kubevirt/enhancements, veps/sig-compute/248-migration-convergence; defaults of its alpha and
 * of pull request 329): once a round leaves no less than the best one of more than 40 s ago, the migration has stalled. From then on it
 * switches over at the next end of a round that is as good as the best since, if the downtime is within `maxDowntimeMs`, and gives up if
 * it is hopeless. A target that is not met within patience is replaced by the next larger that was seen, and patience is halved. Where
 * the migration may go on as post-copy, it does, at the same moment.
 *
 * What is owed and what the downtime would be are as this engine predicts them, so that the idea is compared, and not QEMU's numbers.
 */
export function vep248Rule(options: Vep248Options = {}): ConvergencePolicy {
  checkOptions<Vep248Options>('vep248Rule', options, {
    progressTimeoutMs: true,
    maxDowntimeMs: true,
    margin: true,
    hopelessFactor: true,
    patienceDecay: true,
  });
  for (const [name, value] of Object.entries(options)) inRange(`vep248Rule: ${name}`, value, 0);
  const { maxDowntimeMs = 900, margin = 0.04, hopelessFactor = 1.5 } = options;
  return function vep248Rule(input) {
    const { moment, outcome, canPostcopy, overruns, downtimeLimitMs } = input;
    if (moment !== 'round-end' || overruns >= PATIENCE) return undefined;
    const target = targetPages(input, options);
    if (target === undefined || outcome.newlyDirtyPages > target * (1 + margin)) return undefined;
    const predicted = outcome.predictedDowntimeMs;
    const minimum = `stalled, and a minimum: ${outcome.newlyDirtyPages} pages are owed; predicted downtime ${predicted.toFixed(1)} ms`;
    const mostMs = Math.max(maxDowntimeMs, downtimeLimitMs);
    if (canPostcopy) return { action: 'postcopy', reason: minimum };
    if (predicted <= mostMs) return { action: 'switchover', reason: minimum, downtimeLimitMs: mostMs };
    if (predicted < mostMs * hopelessFactor) return undefined;
    return {
      action: 'abort',
      reason: `${minimum}, hopelessly above the ${mostMs} ms that are acceptable after a stall`,
    };
  };
}

/** The least that may be hoped for since the stall began; `undefined` while there is none. */
function targetPages(input: PolicyInput, options: Vep248Options): number | undefined {
  const { progressTimeoutMs = 40_000, margin = 0.04, patienceDecay = 0.5 } = options;
  const samples: readonly Sample[] = completedRounds(input).map(({ endedAtMs, newlyDirtyPages }) => ({
    at: endedAtMs,
    pages: newlyDirtyPages,
  }));
  let best = Number.POSITIVE_INFINITY;
  let bestAt = -1;
  let aged = 0;
  for (const [index, { at, pages }] of samples.entries()) {
    for (; aged < index && (samples[aged] as Sample).at <= at - progressTimeoutMs; aged++) {
      if ((samples[aged] as Sample).pages >= best) continue;
      best = (samples[aged] as Sample).pages;
      bestAt = aged;
    }
    if (bestAt < 0 || pages < best * (1 - margin)) continue;
    return relaxed(samples, bestAt, index, progressTimeoutMs, patienceDecay);
  }
  return undefined;
}

/** The target after the stall that was detected at `detected`, relaxed as often as patience has run out since. */
function relaxed(
  samples: readonly Sample[],
  from: number,
  detected: number,
  patienceMs: number,
  decay: number,
): number {
  let target = Math.min(...samples.slice(from, detected + 1).map(({ pages }) => pages));
  let patience = patienceMs;
  let deadline = (samples[detected] as Sample).at + patience;
  const since: number[] = [];
  for (const { at, pages } of samples.slice(detected + 1)) {
    since.push(pages);
    if (at < deadline) continue;
    const larger = since.filter((seen) => seen > target);
    if (larger.length > 0) target = Math.min(...larger);
    patience = Math.max(LEAST_PATIENCE_MS, patience * decay);
    deadline = at + patience;
  }
  return target;
}

import { checkOptions, inRange } from '../../argument.js';
import { type ConvergencePolicy, PATIENCE, type PolicyInput } from '../policy.js';
import { completedRounds } from './completed-rounds.js';

/** The parameters of `vep248`, with the defaults of its proposal. */
export interface Vep248Options {
  /** Time without progress that is a stall (`stallProgressTimeout`). Milliseconds; default 40,000. */
  readonly progressTimeoutMs?: number;
  /** The most that the guest may be down for after a stall (`maxDowntimeMs`). Milliseconds; default 900. */
  readonly maxDowntimeMs?: number;
  /** What is owed counts as equal to the best when it is above the best by at most this share (`stallMargin`); default 0.04. */
  readonly margin?: number;
  /** A downtime this many times `maxDowntimeMs` is hopeless (`precopyPossibleFactor`); default 1.5. */
  readonly hopelessFactor?: number;
  /** The factor by which patience shrinks with each target that was not reached (`patienceWindowDecayFactor`); default 0.5. */
  readonly patienceDecay?: number;
}

/** Patience does not shrink below this. Milliseconds. */
const LEAST_PATIENCE_MS = 1000;

/** What was owed at the end of a round, and when the round ended on the migration's clock. */
interface Sample {
  readonly at: number;
  readonly pages: number;
}

/**
 * The stall detector of KubeVirt's VEP 248 (kubevirt/enhancements, veps/sig-compute/248-migration-convergence; defaults of its alpha and
 * of pull request 329): the migration has stalled once a round leaves no less than the best round of more than 40 s ago. From then on
 * the rule switches over at the next end of a round that is as good as the best since, if the downtime is within `maxDowntimeMs`, and
 * gives up if the downtime is hopeless. A target that is not met within patience is replaced by the next larger value that was seen, and
 * patience is halved. Where the migration can go on as post-copy, the rule decides for post-copy at the moment at which it would switch
 * over or give up.
 *
 * The rule uses this engine's predictions of owed pages and downtime, so that a comparison shows the effect of the rule and not of
 * QEMU's numbers.
 *
 * @example
 * migrate(vm, connector, { policy: vep248Rule({ maxDowntimeMs: 500 }) });
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

/** The smallest number of owed pages that a switchover waits for since the stall began; `undefined` without a stall. */
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

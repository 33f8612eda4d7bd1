import { checkOptions, inRange } from '../../argument.js';
import type { ConvergencePolicy, PolicyInput } from '../policy.js';
import { completedRounds } from './completed-rounds.js';
import { firstOpinion } from './first-opinion.js';

/**
 * Switches over as QEMU does (`migration_iteration_run`, 8.0 to 11.0): when the pages that are owed, in raw bytes, are no more than the
 * measured bytes per second times the downtime limit. The rule is for comparison, so it has QEMU's errors: encoded and raw bytes are
 * mixed, the rate is that of the last round with scanning, harvests and the bandwidth limit in it, and of the downtime only RAM is
 * counted. The rule never gives up by itself.
 *
 * The difference from QEMU: QEMU measures the rate over windows of 100 ms, and in the middle of a round knows only the pages of the
 * last harvest. The rule has no opinion before the first round is complete.
 */
export const qemuRule: ConvergencePolicy = ({ outcome, downtimeLimitMs, pageSize }) => {
  if (outcome.totalMs <= 0) return undefined;
  const pendingBytes = outcome.newlyDirtyPages * pageSize;
  const bytesPerMs = outcome.wireBytes / outcome.totalMs;
  if (!(pendingBytes <= bytesPerMs * downtimeLimitMs)) return undefined;
  return {
    action: 'switchover',
    reason:
      `${pendingBytes} bytes are pending, at ${bytesPerMs.toFixed(0)} bytes/ms no more than fits into ` +
      `${downtimeLimitMs} ms`,
  };
};

/** QEMU's parameters of auto-converge, with QEMU's defaults. */
export interface AutoConvergeOptions {
  /**
   * The guest is throttled when it writes again more than this part of what was sent, in percent; default 50
   * (`throttle-trigger-threshold`).
   */
  readonly thresholdPercent?: number;
  /** The first throttle, in percent; default 20 (`cpu-throttle-initial`). */
  readonly initialPercent?: number;
  /** Added to the throttle each further time, in percent; default 10 (`cpu-throttle-increment`). */
  readonly incrementPercent?: number;
  /** The largest throttle, in percent; default 99 (`max-cpu-throttle`). */
  readonly mostPercent?: number;
}

/** QEMU judges no more often than this. Milliseconds. */
const PERIOD_MS = 1000;

/** Throttles after so many periods in which the guest wrote too much. */
const HIGH_PERIODS = 2;

/**
 * Throttles as QEMU's auto-converge does: after every second period (of more than a second, ending with a round, the first round not
 * counted) in which the guest wrote more than half of what went out, first by 20 %, then by 10 points more, up to 99 %. It never lowers
 * the throttle, as QEMU does not, and a good period does not make up for a bad one. The throttle is computed from the history alone;
 * where the history has forgotten its oldest rounds, the computation begins with the throttle of the first round that is left.
 *
 * @example
 * const policy = firstOpinion(withinDowntimeLimit, qemuAutoConverge({ initialPercent: 30 }));
 */
export function qemuAutoConverge(options: AutoConvergeOptions = {}): ConvergencePolicy {
  checkOptions<AutoConvergeOptions>('qemuAutoConverge', options, {
    thresholdPercent: true,
    initialPercent: true,
    incrementPercent: true,
    mostPercent: true,
  });
  for (const [name, value] of Object.entries(options)) inRange(`qemuAutoConverge: ${name}`, value, 1, 100);
  return function qemuAutoConverge(input) {
    if (!input.canThrottle || input.moment !== 'round-end') return undefined;
    const percent = autoConvergePercent(input, options);
    const fraction = percent / 100;
    if (!(fraction > input.throttle + 0.005)) return undefined;
    return { action: 'throttle', fraction, reason: `auto-converge: the guest is held back by ${percent} %` };
  };
}

function autoConvergePercent(input: PolicyInput, options: AutoConvergeOptions): number {
  const { thresholdPercent = 50, initialPercent = 20, incrementPercent = 10, mostPercent = 99 } = options;
  const rounds = completedRounds(input);
  let percent = Math.round((rounds[0]?.throttle ?? 0) * 100);
  let high = 0;
  let period = { ms: 0, dirtyBytes: 0, sentBytes: 0 };
  for (const { round, totalMs, newlyDirtyPages, wireBytes } of rounds) {
    if (round === 1) continue;
    period = {
      ms: period.ms + totalMs,
      dirtyBytes: period.dirtyBytes + newlyDirtyPages * input.pageSize,
      sentBytes: period.sentBytes + wireBytes,
    };
    if (period.ms <= PERIOD_MS) continue;
    if (period.dirtyBytes > (period.sentBytes * thresholdPercent) / 100) high++;
    period = { ms: 0, dirtyBytes: 0, sentBytes: 0 };
    if (high < HIGH_PERIODS) continue;
    high = 0;
    percent = percent === 0 ? initialPercent : Math.min(mostPercent, percent + incrementPercent);
  }
  return Math.min(percent, 99);
}

/**
 * QEMU's rule, with auto-converge on request (it is off in QEMU by default).
 *
 * @example
 * migrate(vm, connector, { policy: qemuPolicy({ autoConverge: true }) });
 */
export function qemuPolicy(options: { readonly autoConverge?: boolean | AutoConvergeOptions } = {}): ConvergencePolicy {
  checkOptions<typeof options>('qemuPolicy', options, { autoConverge: true });
  const { autoConverge = false } = options;
  if (autoConverge === false) return qemuRule;
  return firstOpinion(qemuRule, qemuAutoConverge(autoConverge === true ? {} : autoConverge));
}

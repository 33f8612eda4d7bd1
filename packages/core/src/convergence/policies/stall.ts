import { checkOptions, inRange } from '../../argument.js';
import { type ConvergencePolicy, PATIENCE, type RoundOutcome } from '../policy.js';
import { completedRounds, endedMsAgo } from './completed-rounds.js';
import { checkEnd, type EndOfPatience, endOfPatience } from './end-of-patience.js';

/** What counts as no progress, and for how long. */
export interface StallOptions {
  /** Rounds without progress after which a migration counts as stalled. */
  readonly rounds: number;
  /**
   * Those rounds have to take at least this long together, since short rounds vary with what the guest does. Milliseconds; default 0.
   */
  readonly leastMs?: number;
  /** A round makes progress when it lowers the smallest number of owed pages by more than this share; default 0.02. */
  readonly gain?: number;
}

/** The share by which the smallest number of owed pages has to fall to count as progress. */
const GAIN = 0.02;

/** All options of a stall. */
export const STALL_OPTIONS: Readonly<Record<keyof StallOptions, true>> = { rounds: true, leastMs: true, gain: true };

/** The rounds since the smallest number of owed pages at the end of a round: none of them made progress. */
export interface Stall {
  /** Rounds without progress. */
  readonly rounds: number;
  /** The least number of pages that was owed at the end of a round. */
  readonly leastPages: number;
  /** The index of that round in the list that was given. */
  readonly leastAt: number;
}

/**
 * Finds the rounds without progress at the end of `rounds`. What is owed at the end of a round (the pages that the guest wrote while it
 * was sent) is what the next one has to send: pre-copy can lower nothing else, and a round makes progress when it leaves fewer owed
 * pages than every round before it. A guest that oscillates makes no progress, although every second round leaves less than the one
 * before.
 */
export function findStall(rounds: readonly RoundOutcome[], gain = GAIN): Stall {
  let leastPages = Number.POSITIVE_INFINITY;
  let leastAt = -1;
  let progressAt = -1;
  let progressPages = Number.POSITIVE_INFINITY;
  for (const [index, { newlyDirtyPages }] of rounds.entries()) {
    if (newlyDirtyPages < progressPages * (1 - gain) || index === 0) {
      progressAt = index;
      progressPages = newlyDirtyPages;
    }
    if (newlyDirtyPages < leastPages) {
      leastPages = newlyDirtyPages;
      leastAt = index;
    }
  }
  return { rounds: Math.max(0, rounds.length - 1 - progressAt), leastPages, leastAt };
}

/**
 * Ends patience at the end of a round when `rounds` rounds have not lowered what is owed.
 *
 * @example
 * ```ts
 * const policy = firstOpinion(withinDowntimeLimit, stalled({ rounds: 5, leastMs: 10_000 }, 'abort'));
 * ```
 */
export function stalled(options: StallOptions, end: EndOfPatience): ConvergencePolicy {
  checkOptions<StallOptions>('stalled', options, STALL_OPTIONS);
  checkStall('stalled', options);
  checkEnd('stalled', end);
  return function stalled(input) {
    if (input.moment !== 'round-end') return undefined;
    const ended = completedRounds(input);
    const stall = findStall(ended, options.gain);
    if (!isStalled(stall, ended, input.elapsedMs, options)) return undefined;
    return endOfPatience(
      end,
      `in ${stall.rounds} rounds no progress was made: the least that was owed is ${stall.leastPages} pages`,
      input,
    );
  };
}

/** Options of `localMinimum`: when what is owed counts as a minimum. */
export interface LocalMinimumOptions extends StallOptions {
  /** The longest downtime of a switchover at a local minimum. Milliseconds. */
  readonly upToMs: number;
  /** At a round's end, what is owed may be above the minimum by this share; default 0.04. */
  readonly margin?: number;
}

/**
 * Once a migration has stalled, switches over at a local minimum of what is owed, if the predicted downtime is within `upToMs`; the
 * decision carries that limit. A minimum is an end of a round at which no more is owed than at the best one (within `margin`), or a
 * moment in the middle of a round at which clearly less is owed: what is owed then is an estimate.
 *
 * The idea is that of KubeVirt's VEP 248: what is owed oscillates around a level, and to wait for a good moment costs one or two rounds.
 *
 * @example
 * ```ts
 * const policy = firstOpinion(withinDowntimeLimit, localMinimum({ rounds: 4, upToMs: 900 }));
 * ```
 */
export function localMinimum(options: LocalMinimumOptions): ConvergencePolicy {
  checkOptions<LocalMinimumOptions>('localMinimum', options, { ...STALL_OPTIONS, upToMs: true, margin: true });
  checkStall('localMinimum', options);
  inRange('localMinimum: upToMs', options.upToMs, 0);
  inRange('localMinimum: margin', options.margin, 0);
  const { upToMs, margin = 0.04, gain = GAIN } = options;
  return function localMinimum(input) {
    const { moment, outcome, elapsedMs, overruns } = input;
    if (overruns >= PATIENCE) return undefined;
    const ended = completedRounds(input);
    // The stall is that of the rounds before this one: if this round is a new minimum, it counts as progress, and a minimum is what the
    // policy waits for.
    const before = moment === 'round-end' ? ended.slice(0, -1) : ended;
    const stall = findStall(before, gain);
    if (!isStalled(stall, before, elapsedMs, options)) return undefined;
    const owed = outcome.newlyDirtyPages;
    const most = moment === 'round-end' ? stall.leastPages * (1 + margin) : stall.leastPages * (1 - margin);
    if (owed > most || !(outcome.predictedDowntimeMs <= upToMs)) return undefined;
    return {
      action: 'switchover',
      downtimeLimitMs: upToMs,
      reason:
        `no progress in ${stall.rounds} rounds, and a minimum: ${owed} pages are owed, ${stall.leastPages} at the best end of a ` +
        `round; predicted downtime ${outcome.predictedDowntimeMs.toFixed(1)} ms`,
    };
  };
}

function isStalled(stall: Stall, rounds: readonly RoundOutcome[], elapsedMs: number, options: StallOptions): boolean {
  if (stall.rounds < options.rounds) return false;
  const { leastMs = 0 } = options;
  return leastMs === 0 || endedMsAgo({ elapsedMs }, rounds, rounds.length - 1 - stall.rounds) >= leastMs;
}

function checkStall(name: string, { rounds, leastMs, gain }: StallOptions): void {
  inRange(`${name}: rounds`, rounds, 1);
  inRange(`${name}: leastMs`, leastMs, 0);
  inRange(`${name}: gain`, gain, 0, 1);
}

import { checkOptions, inRange } from '../../argument.js';
import type { ConvergencePolicy } from '../policy.js';
import { completedRounds, endedMsAgo } from './completed-rounds.js';
import { checkEnd, type EndOfPatience, endOfPatience } from './end-of-patience.js';
import { findStall, STALL_OPTIONS, type StallOptions } from './stall.js';

/** A round counts as throttled as far as allowed when its throttle was at most this much below the largest. */
const NEARLY = 0.1;

/**
 * Ends patience when the guest was throttled by about `most` for the given number of rounds and these made no progress: more such
 * rounds would slow the guest as much and not converge either.
 *
 * @example
 * const policy = firstOpinion(withinDowntimeLimit, throttleExhausted(0.5, { rounds: 5 }, 'abort'), throttleToConverge({ most: 0.5 }));
 */
export function throttleExhausted(most: number, options: StallOptions, end: EndOfPatience): ConvergencePolicy {
  checkOptions<StallOptions>('throttleExhausted', options, STALL_OPTIONS);
  inRange('throttleExhausted: most', most, 0, 0.99);
  inRange('throttleExhausted: rounds', options.rounds, 1);
  checkEnd('throttleExhausted', end);
  const { rounds: patience, leastMs = 0, gain } = options;
  return function throttleExhausted(input) {
    if (input.moment !== 'round-end' || input.throttle < most - NEARLY) return undefined;
    const rounds = completedRounds(input);
    const from = rounds.findLastIndex(({ throttle }) => throttle < most - NEARLY) + 1;
    const held = rounds.slice(from);
    const { rounds: without } = findStall(held, gain);
    if (without < patience || endedMsAgo(input, held, held.length - 1 - without) < leastMs) return undefined;
    return endOfPatience(
      end,
      `the guest was held back by ${Math.round(input.throttle * 100)} % for ${held.length} rounds, the most that this policy may, ` +
        'and what is owed did not go down',
      input,
    );
  };
}

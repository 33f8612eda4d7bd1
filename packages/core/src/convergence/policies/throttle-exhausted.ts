import { inRange } from '../../argument.js';
import type { ConvergencePolicy } from '../policy.js';
import { completedRounds, endedMsAgo } from './completed-rounds.js';
import { checkEnd, type EndOfPatience, endOfPatience } from './end-of-patience.js';
import { findStall, type StallOptions } from './stall.js';

/** Rounds whose throttle was this much below the most count as held back as far as may be. */
const NEARLY = 0.1;

/**
 * Ends patience when the guest was held back by about `most` for so many rounds, and they made no progress: to hold it back for longer
 * would cost it as much and bring nothing.
 */
export function throttleExhausted(most: number, options: StallOptions, end: EndOfPatience): ConvergencePolicy {
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

import { inRange } from '../../argument.js';
import type { ConvergencePolicy } from '../policy.js';
import { checkEnd, type EndOfPatience, endOfPatience, outOfPatience } from './end-of-patience.js';

/**
 * After `rounds` rounds, counted over the whole migration, or after three overruns: patience ends.
 *
 * @example
 * const policy = firstOpinion(withinDowntimeLimit, roundCap(30, 'abort'));
 */
export function roundCap(rounds: number, end: EndOfPatience): ConvergencePolicy {
  inRange('roundCap: rounds', rounds, 0);
  checkEnd('roundCap', end);
  return function roundCap(input) {
    if (input.outcome.round < rounds) return outOfPatience(end, input);
    return endOfPatience(end, `the cap of ${rounds} rounds is reached`, input);
  };
}

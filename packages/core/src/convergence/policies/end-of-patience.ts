import { chosen } from '../../argument.js';
import { GodwitError } from '../../errors.js';
import type { Decision } from '../../round-record.js';
import { PATIENCE, type PolicyInput } from '../policy.js';

const ENDS = ['abort', 'force', 'switchover', 'postcopy-or-abort', 'postcopy-or-force'] as const;

/**
 * What to do when patience is at its end:
 *
 * - `abort`: give up with `GODWIT_NOT_CONVERGING`; the guest runs on at the source;
 * - `force` (or `switchover`, its older name): switch over whatever the downtime;
 * - `postcopy-or-abort`, `postcopy-or-force`: run the guest at the destination and send the rest afterwards, where the migration can
 *   (`PolicyInput.canPostcopy`); else the second.
 */
export type EndOfPatience = (typeof ENDS)[number];

/** The decision for the end of patience. */
export function endOfPatience(end: EndOfPatience, reason: string, { canPostcopy }: PolicyInput): Decision {
  if (end.startsWith('postcopy') && canPostcopy) return { action: 'postcopy', reason };
  if (end === 'abort' || end === 'postcopy-or-abort') return { action: 'abort', reason };
  return { action: 'switchover', force: true, reason };
}

/** The end of patience after three switchovers that were given up; `undefined` before. */
export function outOfPatience(end: EndOfPatience, input: PolicyInput): Decision | undefined {
  if (input.overruns < PATIENCE) return undefined;
  const reason = `${input.overruns} switchovers were given up since the guest would have been down for too long`;
  return endOfPatience(end, reason, input);
}

/** Throws `GODWIT_INVALID_ARGUMENT` unless `end` is an `EndOfPatience`. */
export function checkEnd(name: string, end: EndOfPatience): void {
  if (ENDS.includes(end)) return;
  const known = ENDS.map((one) => `"${one}"`).join(', ');
  throw new GodwitError(
    'GODWIT_INVALID_ARGUMENT',
    `${name}: the end of patience is one of ${known}, got ${chosen(end)}`,
  );
}

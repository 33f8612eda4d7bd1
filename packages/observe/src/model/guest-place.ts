import { DESTINATION_OWNERSHIP, SOURCE_OWNERSHIP } from '@godwit/core/pages';
import type { GuestPlace } from './migration-model.js';

type States = Readonly<Record<string, { readonly final: boolean; readonly mayRunGuest: boolean } | undefined>>;

/** States of a source whose guest runs at the destination and lacks pages there. */
const FOLLOWING: ReadonlySet<string> = new Set(['postcopy-active', 'postcopy-paused', 'postcopy-recover']);

/**
 * Which side owns the guest, from the ownership that each side reports; `undefined` for a side that is not watched. By post-copy, only
 * `sourceState` tells that the destination runs the guest while the source still owes pages.
 */
export function guestPlace(
  source: string | undefined,
  destination: string | undefined,
  sourceState?: string,
): GuestPlace {
  const there = (DESTINATION_OWNERSHIP.states as States)[destination ?? ''];
  const here = (SOURCE_OWNERSHIP.states as States)[source ?? ''];
  if (there?.mayRunGuest === true || source === 'released') return 'destination';
  if (source === 'handedOver' && destination !== 'stranded' && FOLLOWING.has(sourceState ?? '')) return 'destination';
  if (here?.mayRunGuest === true) return 'source';
  if (source === 'unknown' || destination === 'stranded') return 'unknown';
  if (source !== undefined) return here === undefined ? 'unknown' : 'between';
  return destination === 'receiving' || destination === 'abandoned' ? 'source' : 'between';
}

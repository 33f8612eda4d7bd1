import { DESTINATION_OWNERSHIP, SOURCE_OWNERSHIP } from '@godwit/core/pages';
import type { GuestPlace } from './migration-model.js';

type States = Readonly<Record<string, { readonly final: boolean; readonly mayRunGuest: boolean } | undefined>>;

/** Which side owns the guest, by what each of them says; `undefined` where a side is not watched. */
export function guestPlace(source: string | undefined, destination: string | undefined): GuestPlace {
  const there = (DESTINATION_OWNERSHIP.states as States)[destination ?? ''];
  const here = (SOURCE_OWNERSHIP.states as States)[source ?? ''];
  if (there?.mayRunGuest === true || source === 'released') return 'destination';
  if (here?.mayRunGuest === true) return 'source';
  if (source === 'unknown' || destination === 'stranded') return 'unknown';
  if (source !== undefined) return here === undefined ? 'unknown' : 'between';
  return destination === 'receiving' || destination === 'abandoned' ? 'source' : 'between';
}

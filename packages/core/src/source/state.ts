import { GodwitError } from '../errors.js';
import type { MigrationState } from '../migration-event.js';

/** The legal transitions of the source's state; `migration-event.ts` has the diagram. */
export const MIGRATION_TRANSITIONS: Readonly<Record<MigrationState, readonly MigrationState[]>> = {
  none: ['setup', 'cancelling'],
  setup: ['active', 'completed', 'failed', 'cancelling'],
  active: ['reconnecting', 'pre-switchover', 'device', 'postcopy-device', 'completed', 'failed', 'cancelling'],
  reconnecting: ['active', 'device', 'postcopy-device', 'failed', 'cancelling'],
  'pre-switchover': ['device', 'postcopy-device', 'active', 'failed', 'cancelling'],
  device: ['reconnecting', 'active', 'settling', 'completed', 'failed', 'cancelling'],
  'postcopy-device': ['reconnecting', 'active', 'settling', 'postcopy-active', 'completed', 'failed', 'cancelling'],
  'postcopy-active': ['postcopy-paused', 'completed', 'failed'],
  'postcopy-paused': ['postcopy-recover', 'failed'],
  'postcopy-recover': ['postcopy-active', 'postcopy-paused', 'completed', 'failed'],
  settling: ['postcopy-active', 'completed', 'failed'],
  cancelling: ['cancelled', 'failed'],
  completed: [],
  failed: [],
  cancelled: [],
};

/** Throws `GODWIT_INVALID_STATE` for a transition that is not legal. */
export function checkTransition(from: MigrationState, to: MigrationState): void {
  if (MIGRATION_TRANSITIONS[from].includes(to)) return;
  throw new GodwitError('GODWIT_INVALID_STATE', `a migration cannot go from "${from}" to "${to}"`);
}

export function isFinal(state: MigrationState): boolean {
  return MIGRATION_TRANSITIONS[state].length === 0;
}

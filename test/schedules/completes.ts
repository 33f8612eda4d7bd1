import type { Action, Fault } from './fault.js';
import type { World } from './world.js';

/** A fault that passes within this many milliseconds does not end a migration. */
const SHORT_MS = 1000;

/** Most faults that a migration must survive; with more of them it may fail. */
const FEW = 3;

/**
 * Whether the first migration must complete: only faults that pass soon have struck, and no time limit is short. The engine may then
 * go back and reconnect any number of times, but must hand the guest over.
 */
export function mustComplete(world: World): boolean {
  const { schedule, strikes } = world;
  const { options, devices, guest } = schedule;
  if (guest.pausedByUser || strikes.length > FEW) return false;
  // Only this time limit bounds the pause of a forced switchover, and its end fails the migration.
  if (options.switchoverTimeoutMs < 2 * SHORT_MS && isForced(world)) return false;
  if (options.reconnectTimeoutMs < 4 * SHORT_MS || options.settleTimeoutMs < 4 * SHORT_MS) return false;
  if ((options.lease ?? []).some(({ how, ms }) => how !== 'late' || ms > SHORT_MS)) return false;
  // The engine cannot go back once the state of such a device was loaded: the migration fails.
  if (devices.some(({ kind }) => kind === 'iterative-no-reset')) return false;
  // State that does not fit is loaded before the last pages come. If these undo what load has written, the migration fails.
  if (options.maximumDeviceState !== undefined && devices.some(({ kind }) => kind === 'load-writes')) return false;
  return strikes.every(({ fault }) => passes(fault, options.checksum));
}

function passes({ action, trigger }: Fault, checksum: boolean): boolean {
  switch (action.do) {
    case 'cut':
    case 'adjust':
    case 'switch over':
      return true;
    case 'stall':
    case 'slow':
    case 'partition':
      return action.ms <= SHORT_MS;
    case 'hang':
      return hangPasses(action) && trigger.on === 'call' && trigger.call !== 'stop' && trigger.call !== 'abandon';
    case 'garble':
      // With checksums a garbled frame counts as a lost link. Without them an invalid frame ends the migration.
      return checksum && action.into !== 'lost';
    default:
      return false;
  }
}

function hangPasses({ ms, fails }: Extract<Action, { do: 'hang' }>): boolean {
  return !fails && ms !== undefined && ms <= SHORT_MS;
}

function isForced({ departures }: World): boolean {
  return departures.some(({ forced, unbounded }) => forced || unbounded);
}

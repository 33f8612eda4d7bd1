import type { Action, Fault } from './fault.js';
import type { World } from './world.js';

/** Faults that pass, and that a migration outlives, as long as each of them is this short. Milliseconds. */
const SHORT_MS = 1000;

/** More of them than this may end anything. */
const FEW = 3;

/**
 * Whether nothing has happened that may keep the first migration from completing: only what passes soon, in a world in which
 * nobody gives up. Then the engine has to get the guest over, however often it goes back and connects again.
 */
export function mustComplete(world: World): boolean {
  const { schedule, strikes } = world;
  const { options, devices, guest } = schedule;
  if (guest.pausedByUser || strikes.length > FEW) return false;
  // Once it is forced, nothing but this time bounds the pause, and ends the migration.
  if (options.switchoverTimeoutMs < 2 * SHORT_MS && isForced(world)) return false;
  if (options.reconnectTimeoutMs < 4 * SHORT_MS || options.settleTimeoutMs < 4 * SHORT_MS) return false;
  if ((options.lease ?? []).some(({ how, ms }) => how !== 'late' || ms > SHORT_MS)) return false;
  // What does not move while the guest runs may be more than the destination holds.
  if (options.maximumDeviceState !== undefined && devices.some(({ kind }) => kind !== 'iterative')) return false;
  // It cannot go back once its state was loaded, and says so.
  if (devices.some(({ kind }) => kind === 'iterative-no-reset')) return false;
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
      // A checksum makes a lost link of it; without one a frame that makes no sense ends the migration.
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

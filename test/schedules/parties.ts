import type { IncomingMigration, MigratableVm, Migration } from '@godwit/core';
import type { HostProcess } from './host-process.js';
import type { Machine } from './machine.js';

/** How a promise has settled. */
export interface Ending {
  /** Code of the failure; `undefined`: it succeeded. */
  readonly code: string | undefined;
  readonly message: string;
  readonly atMs: number;
}

/** A call of `migrate` and its state. */
export interface Departure {
  readonly name: string;
  readonly id: string;
  readonly process: HostProcess;
  readonly machine: Machine;
  readonly vm: MigratableVm;
  readonly address: string;
  readonly migration: Migration;
  readonly abort: AbortController;
  /** Whether the call must be refused: another migration had claimed the VM. */
  readonly refusalDue: boolean;
  ending: Ending | undefined;
  /** Milliseconds in `pre-switchover` since the guest was last paused. */
  heldMs: number;
  heldSince: number | undefined;
  /** Whether the pause of this attempt is unbounded: the switchover was forced, or an authority decides. */
  unbounded: boolean;
  /** Whether the policy's last decision on a switchover was a forced one. */
  forced: boolean;
  /** The limit that was last passed to `adjust`. */
  readonly asked: { downtimeLimitMs: number };
  /** The limit of the present attempt, in milliseconds. */
  downtimeLimitMs: number;
}

/** A call of `receive` and its state. */
export interface Arrival {
  readonly name: string;
  readonly process: HostProcess;
  readonly incoming: IncomingMigration;
  readonly abort: AbortController;
  /** Set once a source has sent `hello`. */
  machine: Machine | undefined;
  vm: MigratableVm | undefined;
  migrationId: string | undefined;
  ending: Ending | undefined;
}

export function endingOf(settled: PromiseSettledResult<unknown>, atMs: number): Ending {
  if (settled.status === 'fulfilled') return { code: undefined, message: '', atMs };
  const { code = 'no code', message = String(settled.reason) } = settled.reason as { code?: string; message?: string };
  return { code, message, atMs };
}

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

/** A call of `migrate`. */
export interface Departure {
  readonly name: string;
  readonly id: string;
  readonly process: HostProcess;
  readonly machine: Machine;
  readonly vm: MigratableVm;
  readonly address: string;
  readonly migration: Migration;
  readonly abort: AbortController;
  /** It must be refused: the VM was another migration's when it was called. */
  readonly refusalDue: boolean;
  ending: Ending | undefined;
  /** Time in `pre-switchover` since the guest was paused last. */
  heldMs: number;
  heldSince: number | undefined;
  /** Nothing bounds how long the guest is paused in this attempt: it was asked for, or the authority decides. */
  unbounded: boolean;
  /** The policy's last decision was to switch over at any price. */
  forced: boolean;
  /** As `adjust` has it. */
  readonly asked: { downtimeLimitMs: number };
  /** In force for the present attempt. */
  downtimeLimitMs: number;
}

/** A call of `receive`. */
export interface Arrival {
  readonly name: string;
  readonly process: HostProcess;
  readonly incoming: IncomingMigration;
  readonly abort: AbortController;
  /** Once a source has said hello. */
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

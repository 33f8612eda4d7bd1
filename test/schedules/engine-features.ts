import type { IncomingMigration, MigratableVm, MigrateOptions, Migration, ReceiveOptions } from '@godwit/core';
import * as core from '@godwit/core';
import type { HostProcess } from './host-process.js';
import type { Lease } from './lease.js';
import type { OptionsPlan } from './schedule.js';

/**
 * What the engine can do. The harness asks here, and nowhere else, so that it runs on an engine that lacks something of it.
 */
export const FEATURES = {
  claims: 'claimOf' in core,
  /** Stop-and-copy is bounded, and goes back to pre-copy; a link that is lost in it is made anew. */
  goingBack: 'switchOver' in core.Migration.prototype,
  /** The run state of a guest travels. */
  runState: 'switchOver' in core.Migration.prototype,
  authority: 'switchOver' in core.Migration.prototype,
} as const;

type ClaimState = 'idle' | 'outgoing' | 'arriving' | 'handedOver';

interface NewCore {
  claimOf(vm: MigratableVm): { readonly state: ClaimState; readonly waitingFor: readonly string[] };
}

interface NewMigration {
  switchOver(options: { force?: boolean }): void;
}

/** What `vm` takes part in; `undefined` where nobody knows. */
export function claimState(vm: MigratableVm): ClaimState | undefined {
  return FEATURES.claims ? (core as unknown as NewCore).claimOf(vm).state : undefined;
}

export function switchOver(migration: Migration, force: boolean): void {
  if (FEATURES.goingBack) (migration as unknown as NewMigration).switchOver({ force });
}

/** Options of `migrate` that the schedule asks for and the engine knows. */
export function newSourceOptions(plan: OptionsPlan, process: HostProcess, lease: Lease): Partial<MigrateOptions> {
  const options = {
    ...(FEATURES.goingBack && plan.pauseLimitMs !== undefined ? { pauseLimitMs: plan.pauseLimitMs } : {}),
    ...authority(plan, process, lease),
  };
  return options as Partial<MigrateOptions>;
}

export function newDestinationOptions(plan: OptionsPlan, process: HostProcess, lease: Lease): Partial<ReceiveOptions> {
  const onArrival = FEATURES.runState ? { onArrival: plan.onArrival } : {};
  return { ...onArrival, ...authority(plan, process, lease) } as Partial<ReceiveOptions>;
}

function authority(plan: OptionsPlan, process: HostProcess, lease: Lease): object {
  return FEATURES.authority && plan.lease !== undefined ? { authority: lease.for(process) } : {};
}

/** From the return of `pause` to `go`, in milliseconds; `undefined`: there is no bound. */
export function pauseLimitMs({ pauseLimitMs: given, downtimeLimitMs }: OptionsPlan): number | undefined {
  if (!FEATURES.goingBack) return undefined;
  return given ?? Math.max(2 * downtimeLimitMs, 500);
}

export type { IncomingMigration, Migration };

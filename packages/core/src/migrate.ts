import type { MigratableVm } from './device/migratable-vm.js';
import { measuredLink } from './estimate/estimate.js';
import { estimateFrom } from './estimate/estimate-from.js';
import type { LinkConnector } from './link/migration-link.js';
import { Migration } from './source/migration.js';
import type { MigrateOptions } from './source/options.js';
import type { Forecaster } from './source/source-context.js';

/**
 * Moves a running VM to the destination that `connector` reaches. Returns at once; see `Migration` for the events, the controls and
 * the result.
 *
 * The VM may be running, or paused by its user: a paused guest stays paused. Unless the destination takes the VM, it is left at the
 * source as it was. `result` rejects with `GODWIT_CLAIMED` for a VM that takes part in another migration, and with
 * `GODWIT_HANDED_OVER` for a VM that was handed over; neither VM is touched. Throws `GODWIT_INVALID_ARGUMENT` for an impossible
 * option. With `refuseAbove` the migration is estimated first.
 *
 * @example
 * const migration = migrate(vm, connectTo(tcp({ host, port })), { downtimeLimitMs: 100 });
 * const { downtimeMs } = await migration.result;
 */
export function migrate(vm: MigratableVm, connector: LinkConnector, options: MigrateOptions = {}): Migration {
  return new Migration(vm, connector, options, forecastOf);
}

const forecastOf: Forecaster = (sample, devices, link, options) => {
  const { downtimeLimitMs, bandwidthLimit, timeBudgetMs, policy, postcopy, pageChannels } = options;
  const settings = {
    downtimeLimitMs,
    bandwidthLimit,
    policy,
    postcopy,
    pageChannels,
    ...(timeBudgetMs !== undefined && { timeBudgetMs }),
  };
  return estimateFrom(sample, devices, measuredLink(link), settings);
};

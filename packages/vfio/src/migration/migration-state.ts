import { DeviceFeature, MigrationStateNumber as N } from '../layouts/device-feature.js';

/**
 * States of a migratable device, by the kernel's names (`enum vfio_device_mig_state`, linux/vfio.h):
 *
 * ```
 *  RUNNING <-> RUNNING_P2P <-> STOP <-> STOP_COPY        the source with a device that only stops
 *     ^             ^            ^  <-> RESUMING         the destination
 *     v             v            |
 *  PRE_COPY <-> PRE_COPY_P2P ----+---> STOP_COPY         the source with one that streams while it runs
 *
 *  any -> ERROR, which only a reset of the device leaves (to RUNNING)
 * ```
 *
 * In the P2P states a device starts no DMA into other devices; in STOP, STOP_COPY and RESUMING it does no DMA at all.
 */
export type MigrationState =
  | 'ERROR'
  | 'STOP'
  | 'RUNNING'
  | 'STOP_COPY'
  | 'RESUMING'
  | 'RUNNING_P2P'
  | 'PRE_COPY'
  | 'PRE_COPY_P2P';

/** The kernel's numbers. */
export const STATE_NUMBER: Readonly<Record<MigrationState, number>> = {
  ERROR: N.VFIO_DEVICE_STATE_ERROR,
  STOP: N.VFIO_DEVICE_STATE_STOP,
  RUNNING: N.VFIO_DEVICE_STATE_RUNNING,
  STOP_COPY: N.VFIO_DEVICE_STATE_STOP_COPY,
  RESUMING: N.VFIO_DEVICE_STATE_RESUMING,
  RUNNING_P2P: N.VFIO_DEVICE_STATE_RUNNING_P2P,
  PRE_COPY: N.VFIO_DEVICE_STATE_PRE_COPY,
  PRE_COPY_P2P: N.VFIO_DEVICE_STATE_PRE_COPY_P2P,
};

export const MIGRATION_STATES = Object.keys(STATE_NUMBER) as readonly MigrationState[];

/** The name of a number, or null for a state of a newer kernel. */
export function stateOf(number: number): MigrationState | null {
  return MIGRATION_STATES.find((state) => STATE_NUMBER[state] === number) ?? null;
}

/** What a device can do (VFIO_DEVICE_FEATURE_MIGRATION). Every migratable device has STOP and STOP_COPY. */
export interface MigrationCapabilities {
  /** Whether the device has the P2P states, in which it starts no DMA into other devices. */
  readonly p2p: boolean;
  /** Whether the device can stream its state while it runs. */
  readonly preCopy: boolean;
}

const { VFIO_MIGRATION_STOP_COPY, VFIO_MIGRATION_P2P, VFIO_MIGRATION_PRE_COPY } = DeviceFeature;

/** Flags that a device needs to have a state. */
const NEEDS: Readonly<Record<MigrationState, number>> = {
  ERROR: 0,
  STOP: VFIO_MIGRATION_STOP_COPY,
  RUNNING: VFIO_MIGRATION_STOP_COPY,
  STOP_COPY: VFIO_MIGRATION_STOP_COPY,
  RESUMING: VFIO_MIGRATION_STOP_COPY,
  RUNNING_P2P: VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P,
  PRE_COPY: VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_PRE_COPY,
  PRE_COPY_P2P: VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P | VFIO_MIGRATION_PRE_COPY,
};

/** Whether a device with these capabilities has the state at all. */
export function hasState(state: MigrationState, capabilities: MigrationCapabilities): boolean {
  const flags =
    VFIO_MIGRATION_STOP_COPY |
    (capabilities.p2p ? VFIO_MIGRATION_P2P : 0) |
    (capabilities.preCopy ? VFIO_MIGRATION_PRE_COPY : 0);
  return (NEEDS[state] & ~flags) === 0;
}

/**
 * The next state on the way from one state (row) to another (column), as the kernel chooses it: the shortest way, and none
 * through a saving state unless the way begins or ends there. `null`: there is no way.
 */
const NEXT: Readonly<Record<MigrationState, Readonly<Partial<Record<MigrationState, MigrationState>>>>> = {
  STOP: {
    STOP: 'STOP',
    RUNNING: 'RUNNING_P2P',
    PRE_COPY: 'RUNNING_P2P',
    PRE_COPY_P2P: 'RUNNING_P2P',
    STOP_COPY: 'STOP_COPY',
    RESUMING: 'RESUMING',
    RUNNING_P2P: 'RUNNING_P2P',
  },
  RUNNING: {
    STOP: 'RUNNING_P2P',
    RUNNING: 'RUNNING',
    PRE_COPY: 'PRE_COPY',
    PRE_COPY_P2P: 'PRE_COPY',
    STOP_COPY: 'RUNNING_P2P',
    RESUMING: 'RUNNING_P2P',
    RUNNING_P2P: 'RUNNING_P2P',
  },
  PRE_COPY: {
    STOP: 'RUNNING',
    RUNNING: 'RUNNING',
    PRE_COPY: 'PRE_COPY',
    PRE_COPY_P2P: 'PRE_COPY_P2P',
    STOP_COPY: 'PRE_COPY_P2P',
    RESUMING: 'RUNNING',
    RUNNING_P2P: 'RUNNING',
  },
  PRE_COPY_P2P: {
    STOP: 'RUNNING_P2P',
    RUNNING: 'RUNNING_P2P',
    PRE_COPY: 'PRE_COPY',
    PRE_COPY_P2P: 'PRE_COPY_P2P',
    STOP_COPY: 'STOP_COPY',
    RESUMING: 'RUNNING_P2P',
    RUNNING_P2P: 'RUNNING_P2P',
  },
  STOP_COPY: {
    STOP: 'STOP',
    RUNNING: 'STOP',
    STOP_COPY: 'STOP_COPY',
    RESUMING: 'STOP',
    RUNNING_P2P: 'STOP',
  },
  RESUMING: {
    STOP: 'STOP',
    RUNNING: 'STOP',
    PRE_COPY: 'STOP',
    PRE_COPY_P2P: 'STOP',
    STOP_COPY: 'STOP',
    RESUMING: 'RESUMING',
    RUNNING_P2P: 'STOP',
  },
  RUNNING_P2P: {
    STOP: 'STOP',
    RUNNING: 'RUNNING',
    PRE_COPY: 'RUNNING',
    PRE_COPY_P2P: 'PRE_COPY_P2P',
    STOP_COPY: 'STOP',
    RESUMING: 'STOP',
    RUNNING_P2P: 'RUNNING_P2P',
  },
  ERROR: {},
};

/**
 * The states that the kernel takes a device through when it is asked to go from one to another, `to` included and `from`
 * not; empty when it is there already. States that the device lacks are left out.
 *
 * @returns null when the kernel would refuse (EINVAL): out of ERROR, into it, back from STOP_COPY to pre-copy, or a state
 * that the device does not have
 */
export function migrationPath(
  from: MigrationState,
  to: MigrationState,
  capabilities: MigrationCapabilities,
): readonly MigrationState[] | null {
  if (!hasState(from, capabilities) || !hasState(to, capabilities)) return null;
  const path: MigrationState[] = [];
  for (let at = from; at !== to; ) {
    let next = NEXT[at][to];
    while (next !== undefined && !hasState(next, capabilities)) next = NEXT[next][to];
    if (next === undefined) return null;
    path.push(next);
    at = next;
  }
  return from === 'ERROR' ? null : path;
}

/** States that share one data session: a change among them keeps the descriptor. */
const SAVING: ReadonlySet<MigrationState> = new Set(['PRE_COPY', 'PRE_COPY_P2P', 'STOP_COPY']);

/** Whether state is read from the device in this state. */
export function isSaving(state: MigrationState): boolean {
  return SAVING.has(state);
}

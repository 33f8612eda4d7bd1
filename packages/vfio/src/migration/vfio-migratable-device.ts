import { checkOptions, GodwitError, type MigratableDevice, type StateBytes } from '@godwit/core';
import { sizeArgument } from '@godwit/linux/unstable';
import type { VfioDevice } from '../device/vfio-device.js';
import { DeviceMigration } from './device-migration.js';
import type { MigrationState } from './migration-state.js';
import { STATE_VERSION, stateHeader } from './state-header.js';
import { StateLoading } from './state-loading.js';
import { StateSaving } from './state-saving.js';
import { Turns } from './turns.js';

/** Options of a `VfioMigratableDevice`. */
export interface VfioMigratableDeviceOptions {
  readonly device: VfioDevice;
  /** Unique within the VM, the same on both sides. Default: the device's name, which usually differs between hosts. */
  readonly id?: string;
  /** The kind of the device: only a device of the same kind can load its state. See `deviceKind`. */
  readonly kind: string;
  /**
   * The assumed bytes of its state where the kernel cannot report them (before Linux 6.2). Default 100 GiB, as in QEMU: no downtime
   * limit can be reached with it, until the embedder sets another number or forces the switchover.
   */
  readonly assumedStateBytes?: number;
}

/** hw/vfio/migration.c, VFIO_MIG_STOP_COPY_SIZE */
const ASSUMED_STATE_BYTES = 100 * 2 ** 30;

/** A device that had to be reset: it runs, but has lost its state, which the guest's driver will notice. */
export interface DeviceReset {
  readonly device: VfioMigratableDevice;
  readonly cause: unknown;
}

/**
 * The state to which a device without a session changes to stream its state; in other states it is stopped, and all of its state comes
 * with `save`.
 */
const STREAMS_IN: Readonly<Partial<Record<MigrationState, MigrationState>>> = {
  RUNNING: 'PRE_COPY',
  PRE_COPY: 'PRE_COPY',
  RUNNING_P2P: 'PRE_COPY_P2P',
  PRE_COPY_P2P: 'PRE_COPY_P2P',
};

/**
 * The state of a VFIO device, for the engine.
 *
 * ```
 * source       precopy ...            pause           first save       resume
 *              RUNNING -> PRE_COPY -> PRE_COPY_P2P -> STOP_COPY     -> RUNNING_P2P -> RUNNING
 *                              ^------------+ resume before it
 *              RUNNING             -> RUNNING_P2P  -> STOP -> STOP_COPY       (a device without pre-copy)
 * destination  load: RUNNING or STOP -> RESUMING, write, -> STOP     resume: RUNNING_P2P -> RUNNING
 * ```
 *
 * `precopy` is there when the device can stream its state while it runs. STOP_COPY goes on with that stream and leads back only by its
 * end, so a stop-and-copy that is given up after it makes all of the state void (`backVoids`). All devices of a VM must be in one
 * `VfioDeviceSet`, which takes them through the P2P states together.
 *
 * **PCI configuration space and the state of MSI and MSI-X are not part of it**: the VMM that emulates them for the guest migrates them
 * as a device of its own (see the package's README).
 *
 * @example
 * const nic = new VfioMigratableDevice({ device, id: 'nic0', kind: deviceKind(folder) });
 * const vm = new VfioDeviceSet([nic]).attachTo(bare, trackers);
 */
export class VfioMigratableDevice implements MigratableDevice {
  readonly id: string;
  readonly version = STATE_VERSION;
  readonly kind: string;
  readonly backVoids: 'stop-state' | 'everything';
  /** True, since firmware and drivers can work on the states of several devices at once. */
  readonly parallel = true;
  readonly wholeMemory = 'it accesses guest memory by DMA, which cannot wait for a page that is missing';
  readonly migration: DeviceMigration;
  readonly precopy?: () => AsyncIterable<Uint8Array>;
  readonly #device: VfioDevice;
  readonly #turns = new Turns();
  readonly #saving: StateSaving;
  readonly #loading: StateLoading;
  readonly #assumedStateBytes: number;

  /** @throws GodwitError GODWIT_UNSUPPORTED when the device cannot migrate */
  constructor(options: VfioMigratableDeviceOptions) {
    checkOptions<VfioMigratableDeviceOptions>('VfioMigratableDevice', options, {
      device: true,
      id: true,
      kind: true,
      assumedStateBytes: true,
    });
    const { device, id = device.name, kind, assumedStateBytes = ASSUMED_STATE_BYTES } = options;
    this.id = id;
    this.kind = kind;
    stateHeader(kind);
    this.#device = device;
    this.migration = new DeviceMigration(device);
    this.#assumedStateBytes = sizeArgument('assumedStateBytes', assumedStateBytes);
    this.#saving = new StateSaving(id, kind, device, this.migration, this.#turns);
    this.#loading = new StateLoading(id, kind, device, this.migration);
    const { preCopy } = this.migration.capabilities;
    this.backVoids = preCopy ? 'everything' : 'stop-state';
    if (preCopy) this.precopy = () => this.#precopy();
  }

  /**
   * The bytes that would still come if the device were stopped now, by both of its own estimates. When the kernel cannot report them,
   * the result says that it is assumed.
   *
   * @throws SyscallError GODWIT_DEVICE_FAILED when the driver fails to report them
   */
  stateBytes(): StateBytes {
    const info = this.#saving.precopyInfo();
    const precopyBytes = info === null ? 0 : info.initialBytes + info.dirtyBytes;
    const stopCopyBytes = this.migration.stopCopyBytes();
    if (stopCopyBytes !== null) return stopCopyBytes + precopyBytes;
    return {
      bytes: this.#assumedStateBytes + precopyBytes,
      assumed:
        `the kernel cannot tell how much state ${this.id} has (VFIO_DEVICE_FEATURE_MIG_DATA_SIZE came with Linux 6.2): ` +
        `${this.#assumedStateBytes} bytes are assumed (assumedStateBytes)`,
    };
  }

  /** The reason when the device is in ERROR, in which it can neither save nor load. */
  migrationBlocker(): string | undefined {
    return this.migration.state() === 'ERROR' ? `${this.id} is in ERROR, which only a reset of it ends` : undefined;
  }

  /**
   * As long as initial bytes are left, the destination cannot be prepared for the rest, and the device is slow to stop
   * (VFIO_MIG_GET_PRECOPY_INFO, linux/vfio.h).
   */
  switchoverBlocker(): string | undefined {
    const state = this.migration.state();
    if (this.precopy === undefined || STREAMS_IN[state] === undefined) return undefined;
    const info = this.#saving.precopyInfo();
    if (info === null) {
      return this.#saving.begun
        ? `the guest has reset ${this.id}, and its state has to be streamed anew`
        : `${this.id} has not begun to stream its state`;
    }
    if (info.initialBytes === 0) return undefined;
    const which = info.reinitialized ? 'new initial bytes' : 'initial bytes';
    return `${this.id} still has ${info.initialBytes} ${which} of its state to stream`;
  }

  /**
   * Throws GODWIT_SWITCHOVER_OVERRAN when the device has new initial bytes since the call of `switchoverBlocker`: stopping it would now
   * take long.
   */
  checkInitialBytes(): void {
    const info = this.#saving.precopyInfo();
    if (info === null || info.initialBytes === 0) return;
    throw new GodwitError(
      'GODWIT_SWITCHOVER_OVERRAN',
      `${this.id} has been given ${info.initialBytes} new initial bytes of state while the guest was being paused; the guest runs on at ` +
        'the source, and pre-copy goes on',
    );
  }

  save(signal?: AbortSignal): AsyncGenerator<Uint8Array> {
    return this.#saving.save(signal);
  }

  /**
   * @throws GodwitError GODWIT_VERSION_MISMATCH, GODWIT_DEVICE_MISMATCH, GODWIT_BAD_STREAM for state that is not for this
   * device, GODWIT_DEVICE_FAILED for state that the device refuses; the device is reset then. GODWIT_CANCELLED when `reset`
   * was called meanwhile
   */
  async load(state: AsyncIterable<Uint8Array>, version: number): Promise<void> {
    if (version !== STATE_VERSION) {
      throw new GodwitError('GODWIT_VERSION_MISMATCH', `version ${version} of a VFIO device's state cannot be read`);
    }
    await this.#loading.load(state);
  }

  /** Destination: makes the loaded state void. A device with a partial state is reset; `load` then begins anew. */
  reset(): Promise<void> {
    return this.#loading.reset();
  }

  /** Loading writes no guest memory: what the device wrote by DMA came with the guest's memory. */
  loadWrites(): readonly [] {
    return [];
  }

  /** Ends the session that pre-copy has begun, at the end of the migration. A device that is stopped stays stopped. */
  release(): Promise<void> {
    return this.#turns.take(() => this.#saving.release());
  }

  /** Begins again, since the destination has no valid state: the next `precopy` begins with the first byte, in a new session. */
  restart(): Promise<void> {
    return this.release();
  }

  /** Stops DMA into other devices; does nothing for a device that has no such state. */
  holdPeerDma(): Promise<void> {
    return this.#turn(async (state) => {
      if (!this.migration.capabilities.p2p) return;
      if (state === 'PRE_COPY') await this.#saving.moveTo('PRE_COPY_P2P');
      else if (state === 'RUNNING') await this.#saving.moveTo('RUNNING_P2P');
    });
  }

  /** Stops all DMA. A pre-copy session goes on. */
  stop(): Promise<void> {
    return this.#turn(async (state) => {
      if (state === 'PRE_COPY' || state === 'PRE_COPY_P2P') await this.#saving.moveTo('STOP_COPY');
      else if (state === 'RUNNING' || state === 'RUNNING_P2P') await this.#saving.moveTo('STOP');
    });
  }

  /**
   * Runs the device again, without DMA into other devices. When no change of state leads there, the device is reset.
   *
   * @returns why it had to be reset; usually null
   */
  startWithoutPeers(): Promise<DeviceReset | null> {
    return this.#turn(async () => {
      if (this.#saving.streams()) return null;
      return this.#towards(this.migration.capabilities.p2p ? 'RUNNING_P2P' : 'STOP');
    });
  }

  /**
   * Runs the device as before, and continues to stream if it did. If that is impossible, the device is reset as in `startWithoutPeers`.
   */
  start(): Promise<DeviceReset | null> {
    return this.#turn(async () => {
      if (!this.#saving.streams()) return this.#towards('RUNNING');
      try {
        await this.#persistently('PRE_COPY');
        return null;
      } catch {
        // The stream is lost, but the device may still be able to run.
        return this.#towards('RUNNING');
      }
    });
  }

  /** Gives up everything, for a destination that will never run; a device with a partial state is reset. */
  abandon(): Promise<void> {
    return this.#turns.take(async () => {
      await this.#saving.close();
      await this.#loading.reset();
    });
  }

  async *#precopy(): AsyncGenerator<Uint8Array> {
    const state = this.migration.state();
    if (state === 'STOP' || state === 'STOP_COPY') return;
    yield* this.#saving.precopy(STREAMS_IN[state] ?? 'PRE_COPY');
  }

  /** Runs a step in its turn, from the device's present state. */
  #turn<T>(step: (state: MigrationState) => Promise<T>): Promise<T> {
    return this.#turns.take(async () => {
      await this.#saving.closeLost();
      return step(this.migration.state());
    });
  }

  async #towards(state: MigrationState): Promise<DeviceReset | null> {
    // A reset has already taken the device to RUNNING.
    if (this.migration.state() === 'RUNNING') return null;
    try {
      await this.#saving.endBy(() => this.#persistently(state));
      return null;
    } catch (cause) {
      await this.#device.reset();
      return { device: this, cause };
    }
  }

  /**
   * Changes the state; a device that fails on the way, but is not in ERROR, is tried once more from its present state, which is better
   * than a reset.
   */
  async #persistently(state: MigrationState): Promise<void> {
    try {
      await this.#saving.moveTo(state);
    } catch (error) {
      if (this.migration.state() === 'ERROR') throw error;
      await this.#saving.moveTo(state);
    }
  }
}

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
  /** Unique within the VM, the same on both sides. Default: the device's name, which differs between hosts as a rule. */
  readonly id?: string;
  /** What the device is: its state is loaded by the same kind only. See `deviceKind`. */
  readonly kind: string;
  /**
   * Bytes that its state is taken to have when the kernel cannot tell (before Linux 6.2). Default 100 GiB, as in QEMU: a downtime limit
   * is then out of reach until somebody says more, or forces the switchover.
   */
  readonly assumedStateBytes?: number;
}

/** hw/vfio/migration.c, VFIO_MIG_STOP_COPY_SIZE */
const ASSUMED_STATE_BYTES = 100 * 2 ** 30;

/** A device had to be reset: it runs, but what it knew is gone, and the guest's driver will notice. */
export interface DeviceReset {
  readonly device: VfioMigratableDevice;
  readonly cause: unknown;
}

/** Where a device without a session goes to stream its state; others stand still, and all of their state comes with `save`. */
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
 * `precopy` is there when the device can stream its state while it runs. STOP_COPY goes on with that stream and leads back only
 * by its end, so a stop-and-copy that is given up after it voids everything (`backVoids`). All devices of a VM belong into one
 * `VfioDeviceSet`, which takes them through the P2P states together.
 *
 * **PCI configuration space and the state of MSI and MSI-X are not part of it**: whoever emulates them for the guest moves them, as a
 * device of its own (see the package's README).
 */
export class VfioMigratableDevice implements MigratableDevice {
  readonly id: string;
  readonly version = STATE_VERSION;
  readonly kind: string;
  readonly backVoids: 'stop-state' | 'everything';
  /** Firmware and drivers work on the states of several devices at once. */
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
   * What is still to come if the device were stopped now: by its own estimates, both of them. Assumed, and said to be, when the
   * kernel cannot tell.
   *
   * @throws SyscallError GODWIT_DEVICE_FAILED when the driver fails to tell
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

  /** A device in ERROR has no state to save, and takes none. */
  migrationBlocker(): string | undefined {
    return this.migration.state() === 'ERROR' ? `${this.id} is in ERROR, which only a reset of it ends` : undefined;
  }

  /**
   * As long as initial bytes are left the destination cannot have made ready for the rest, and the device is slow to stop
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
   * Throws GODWIT_SWITCHOVER_OVERRAN when the device was given new initial bytes since `switchoverBlocker` was asked: stopping it would
   * take long now.
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

  /** Destination: what was loaded is void. A device with part of a state in it is reset; `load` then begins anew. */
  reset(): Promise<void> {
    return this.#loading.reset();
  }

  /** The device's state is its own; what it wrote by DMA came with the guest's memory. */
  loadWrites(): readonly [] {
    return [];
  }

  /** The migration is over, whatever became of it: ends what pre-copy began. A device that stands still goes on doing so. */
  release(): Promise<void> {
    return this.#turns.take(() => this.#saving.release());
  }

  /** The destination has nothing, or what it had is void: the next `precopy` begins with the first byte, in a new session. */
  restart(): Promise<void> {
    return this.release();
  }

  /** No DMA into other devices any more; nothing to do for a device that has no such state. */
  holdPeerDma(): Promise<void> {
    return this.#turn(async (state) => {
      if (!this.migration.capabilities.p2p) return;
      if (state === 'PRE_COPY') await this.#saving.moveTo('PRE_COPY_P2P');
      else if (state === 'RUNNING') await this.#saving.moveTo('RUNNING_P2P');
    });
  }

  /** No DMA at all any more. A pre-copy session goes on. */
  stop(): Promise<void> {
    return this.#turn(async (state) => {
      if (state === 'PRE_COPY' || state === 'PRE_COPY_P2P') await this.#saving.moveTo('STOP_COPY');
      else if (state === 'RUNNING' || state === 'RUNNING_P2P') await this.#saving.moveTo('STOP');
    });
  }

  /**
   * Runs again, but for DMA into other devices. When there is no way, the device is reset.
   *
   * @returns why it had to be reset; null as a rule
   */
  startWithoutPeers(): Promise<DeviceReset | null> {
    return this.#turn(async () => {
      if (this.#saving.streams()) return null;
      return this.#towards(this.migration.capabilities.p2p ? 'RUNNING_P2P' : 'STOP');
    });
  }

  /** Runs as before, and streams on if it did. The same way out as `startWithoutPeers`. */
  start(): Promise<DeviceReset | null> {
    return this.#turn(async () => {
      if (!this.#saving.streams()) return this.#towards('RUNNING');
      try {
        await this.#persistently('PRE_COPY');
        return null;
      } catch {
        // The stream is lost; the device may still be brought to run.
        return this.#towards('RUNNING');
      }
    });
  }

  /** Lets go of everything; a device with half a state in it is reset. For a destination that will never run. */
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

  /** A step of its own, from the state that the device is in. */
  #turn<T>(step: (state: MigrationState) => Promise<T>): Promise<T> {
    return this.#turns.take(async () => {
      await this.#saving.closeLost();
      return step(this.migration.state());
    });
  }

  async #towards(state: MigrationState): Promise<DeviceReset | null> {
    // A reset has taken it further already.
    if (this.migration.state() === 'RUNNING') return null;
    try {
      await this.#saving.endBy(() => this.#persistently(state));
      return null;
    } catch (cause) {
      await this.#device.reset();
      return { device: this, cause };
    }
  }

  /** A device that fails half-way, but not into ERROR, gets a second chance from where it is: better than a reset. */
  async #persistently(state: MigrationState): Promise<void> {
    try {
      await this.#saving.moveTo(state);
    } catch (error) {
      if (this.migration.state() === 'ERROR') throw error;
      await this.#saving.moveTo(state);
    }
  }
}

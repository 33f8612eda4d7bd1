import { GodwitError, type MigratableDevice } from '@godwit/core';
import type { VfioDevice } from '../device/vfio-device.js';
import { DataSession } from './data-session.js';
import { DeviceMigration } from './device-migration.js';
import type { MigrationState } from './migration-state.js';
import { STATE_VERSION, StateHeaderReader, stateHeader } from './state-header.js';

export interface VfioMigratableDeviceOptions {
  readonly device: VfioDevice;
  /** Unique within the VM, the same on both sides. Default: the device's name, which differs between hosts as a rule. */
  readonly id?: string;
  /** What the device is: its state is loaded by the same kind only. See `deviceKind`. */
  readonly kind: string;
}

/** A device had to be reset: it runs, but what it knew is gone, and the guest's driver will notice. */
export interface DeviceReset {
  readonly device: VfioMigratableDevice;
  readonly cause: unknown;
}

/**
 * The state of a VFIO device, for the engine.
 *
 * ```
 * source       precopy ...            pause (VfioDeviceSet)         save            resume, after a failure
 *              RUNNING -> PRE_COPY -> PRE_COPY_P2P -> STOP_COPY ->  read to 0    -> RUNNING_P2P -> RUNNING
 *              RUNNING             -> RUNNING_P2P  -> STOP ->       STOP_COPY       (a device without pre-copy)
 * destination  load: RUNNING -> RESUMING, write, -> STOP            resume: RUNNING_P2P -> RUNNING
 * ```
 *
 * `precopy` is there when the device can stream its state while it runs. All devices of a VM belong into one
 * `VfioDeviceSet`, whose `pause` and `resume` take them through the P2P states together.
 */
export class VfioMigratableDevice implements MigratableDevice {
  readonly id: string;
  readonly version = STATE_VERSION;
  readonly kind: string;
  readonly migration: DeviceMigration;
  readonly precopy?: () => AsyncIterable<Uint8Array>;
  readonly #device: VfioDevice;
  /** Of state being saved. */
  #session: DataSession | null = null;

  /** @throws GodwitError GODWIT_UNSUPPORTED when the device cannot migrate */
  constructor({ device, id = device.name, kind }: VfioMigratableDeviceOptions) {
    this.id = id;
    this.kind = kind;
    stateHeader(kind);
    this.#device = device;
    this.migration = new DeviceMigration(device);
    if (this.migration.capabilities.preCopy) this.precopy = () => this.#precopy();
  }

  /** What is still to come if the device were stopped now: by its own estimates, both of them. */
  stateBytes(): number {
    const session = this.#session;
    const stopCopy = this.migration.stopCopyBytes() ?? 0;
    if (session === null || this.migration.state() === 'STOP_COPY') return stopCopy;
    const { initialBytes, dirtyBytes } = this.migration.precopyInfo(session.fd);
    return stopCopy + initialBytes + dirtyBytes;
  }

  async *save(): AsyncGenerator<Uint8Array> {
    // Already there when pre-copy was used and the set has paused.
    const { session, begun } = await this.#enter('STOP_COPY');
    if (begun) yield stateHeader(this.kind);
    for (let piece = await session.read('stop-copy'); piece !== null; piece = await session.read('stop-copy')) {
      yield piece;
    }
  }

  /**
   * @throws GodwitError GODWIT_VERSION_MISMATCH, GODWIT_DEVICE_MISMATCH, GODWIT_BAD_STREAM for state that is not for this
   * device, GODWIT_DEVICE_FAILED for state that the device refuses; the device is reset then
   */
  async load(state: AsyncIterable<Uint8Array>, version: number): Promise<void> {
    if (version !== STATE_VERSION) {
      throw new GodwitError('GODWIT_VERSION_MISMATCH', `version ${version} of a VFIO device's state cannot be read`);
    }
    const header = new StateHeaderReader(this.kind);
    let session: DataSession | null = null;
    try {
      for await (const chunk of state) {
        const own = header.take(chunk);
        if (!header.done) continue;
        session ??= await this.#begin('RESUMING');
        await session.write(own);
      }
      if (session === null) {
        throw new GodwitError('GODWIT_BAD_STREAM', `the state of ${this.id} ends before the device's own part begins`);
      }
      // Here the driver takes it in, and says whether it makes sense.
      await this.migration.moveTo('STOP');
    } catch (error) {
      await session?.close();
      session = null;
      // RESUMING is left with complete state or by a reset, not otherwise.
      if (this.migration.state() === 'RESUMING') await this.#device.reset();
      throw error;
    } finally {
      await session?.close();
    }
  }

  /** The migration is over, whatever became of it: ends what pre-copy began. A device that is stopped stays so. */
  async release(): Promise<void> {
    if (this.#session === null) return;
    const stopped = this.migration.state() === 'STOP_COPY';
    await this.#endSaving(() => this.migration.moveTo(stopped ? 'STOP' : 'RUNNING'));
  }

  /** The destination has lost what it had: the next `precopy` begins with the first byte, in a session of its own. */
  restart(): Promise<void> {
    return this.release();
  }

  /** No DMA into other devices any more; nothing to do for a device that has no such state. */
  async holdPeerDma(): Promise<void> {
    if (!this.migration.capabilities.p2p) return;
    const state = this.migration.state();
    if (state === 'PRE_COPY') await this.migration.moveTo('PRE_COPY_P2P');
    else if (state === 'RUNNING') await this.migration.moveTo('RUNNING_P2P');
  }

  /** No DMA at all any more. A pre-copy session goes on. */
  async stop(): Promise<void> {
    const state = this.migration.state();
    if (state === 'PRE_COPY' || state === 'PRE_COPY_P2P') await this.migration.moveTo('STOP_COPY');
    else if (state === 'RUNNING' || state === 'RUNNING_P2P') await this.migration.moveTo('STOP');
  }

  /**
   * Runs again, but for DMA into other devices. When there is no way, the device is reset.
   *
   * @returns why it had to be reset; null as a rule
   */
  startWithoutPeers(): Promise<DeviceReset | null> {
    return this.#towards(this.migration.capabilities.p2p ? 'RUNNING_P2P' : 'STOP');
  }

  /** Runs as before. The same way out as `startWithoutPeers`. */
  start(): Promise<DeviceReset | null> {
    return this.#towards('RUNNING');
  }

  /** Lets go of everything; a device with half a state in it is reset. For a destination that will never run. */
  async abandon(): Promise<void> {
    await this.#session?.close();
    this.#session = null;
    const state = this.migration.state();
    if (state === 'RESUMING' || state === 'ERROR') await this.#device.reset();
  }

  async *#precopy(): AsyncGenerator<Uint8Array> {
    const { session, begun } = await this.#enter('PRE_COPY');
    if (begun) yield stateHeader(this.kind);
    // As much as there is now, and no more: a busy device would keep the round from ending.
    const { initialBytes, dirtyBytes } = this.migration.precopyInfo(session.fd);
    for (let left = initialBytes + dirtyBytes; left > 0; ) {
      const piece = await session.read('pre-copy');
      if (piece === null) return;
      left -= piece.byteLength;
      yield piece;
    }
  }

  /** Into a state of saving, with the session that belongs to it. */
  async #enter(state: MigrationState): Promise<{ readonly session: DataSession; readonly begun: boolean }> {
    if (this.#session === null) {
      this.#session = await this.#begin(state);
      return { session: this.#session, begun: true };
    }
    await this.migration.moveTo(state);
    return { session: this.#session, begun: false };
  }

  async #begin(state: MigrationState): Promise<DataSession> {
    // A session that somebody left behind: its descriptor is lost, so it has to end first.
    if (this.migration.state() === state) await this.migration.moveTo(state === 'PRE_COPY' ? 'RUNNING' : 'STOP');
    const fd = await this.migration.moveTo(state);
    if (fd === null) {
      throw new GodwitError('GODWIT_DEVICE_FAILED', `${this.id} went to ${state} without a descriptor for its state`);
    }
    return new DataSession(this.#device.port, fd, this.id);
  }

  async #towards(state: MigrationState): Promise<DeviceReset | null> {
    // A reset has taken it further already.
    if (this.migration.state() === 'RUNNING') return null;
    try {
      await this.#endSaving(() => this.#persistently(state));
      return null;
    } catch (cause) {
      await this.#device.reset();
      return { device: this, cause };
    }
  }

  /** A device that fails half-way, but not into ERROR, gets a second chance from where it is: better than a reset. */
  async #persistently(state: MigrationState): Promise<void> {
    try {
      await this.migration.moveTo(state);
    } catch (error) {
      if (this.migration.state() === 'ERROR') throw error;
      await this.migration.moveTo(state);
    }
  }

  /** Changes the state, which ends reads that wait for data, and then closes the session. */
  async #endSaving(move: () => Promise<unknown>): Promise<void> {
    const session = this.#session;
    this.#session = null;
    try {
      await move();
    } finally {
      await session?.close();
    }
  }
}

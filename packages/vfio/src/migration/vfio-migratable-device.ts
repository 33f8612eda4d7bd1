import { GodwitError, type MigratableDevice } from '@godwit/core';
import type { VfioDevice } from '../device/vfio-device.js';
import { DataSession } from './data-session.js';
import { DeviceMigration } from './device-migration.js';
import type { MigrationState } from './migration-state.js';
import { STATE_VERSION, stateHeader } from './state-header.js';
import { StateLoading } from './state-loading.js';
import { Turns } from './turns.js';

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

/** Where a device without a session goes to stream its state; others stand still, and all of their state comes with `save`. */
const STREAMS_IN: Readonly<Partial<Record<MigrationState, MigrationState>>> = {
  RUNNING: 'PRE_COPY',
  PRE_COPY: 'PRE_COPY',
  RUNNING_P2P: 'PRE_COPY_P2P',
  PRE_COPY_P2P: 'PRE_COPY_P2P',
};

/** Where a device goes from a state of saving when its session ends and it is to run, or stand still, as before. */
const WITHOUT_SESSION: Readonly<Partial<Record<MigrationState, MigrationState>>> = {
  PRE_COPY: 'RUNNING',
  PRE_COPY_P2P: 'RUNNING_P2P',
  STOP_COPY: 'STOP',
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
 */
export class VfioMigratableDevice implements MigratableDevice {
  readonly id: string;
  readonly version = STATE_VERSION;
  readonly kind: string;
  readonly backVoids: 'stop-state' | 'everything';
  readonly migration: DeviceMigration;
  readonly precopy?: () => AsyncIterable<Uint8Array>;
  readonly #device: VfioDevice;
  readonly #turns = new Turns();
  readonly #loading: StateLoading;
  /** Of state being saved. */
  #session: DataSession | null = null;
  /** `precopy` has yielded state since the last `restart`: the destination may have followed. */
  #streamed = false;
  /** A `save` has read from the session: what it did not yield is gone with it. */
  #saved = false;
  /** A session that the destination has followed is over, and a new one makes no sense to it before it was told. */
  #mustRestart = false;

  /** @throws GodwitError GODWIT_UNSUPPORTED when the device cannot migrate */
  constructor({ device, id = device.name, kind }: VfioMigratableDeviceOptions) {
    this.id = id;
    this.kind = kind;
    stateHeader(kind);
    this.#device = device;
    this.migration = new DeviceMigration(device);
    this.#loading = new StateLoading(id, kind, device, this.migration);
    const { preCopy } = this.migration.capabilities;
    this.backVoids = preCopy ? 'everything' : 'stop-state';
    if (preCopy) this.precopy = () => this.#precopy();
  }

  /** What is still to come if the device were stopped now: by its own estimates, both of them. */
  stateBytes(): number {
    const session = this.#session;
    const stopCopy = this.migration.stopCopyBytes() ?? 0;
    if (session === null || this.migration.state() === 'STOP_COPY') return stopCopy;
    const { initialBytes, dirtyBytes } = this.migration.precopyInfo(session.fd);
    return stopCopy + initialBytes + dirtyBytes;
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
    if (this.#session === null) return `${this.id} has not begun to stream its state`;
    const { initialBytes } = this.migration.precopyInfo(this.#session.fd);
    return initialBytes > 0 ? `${this.id} still has ${initialBytes} initial bytes of its state to stream` : undefined;
  }

  async *save(signal?: AbortSignal): AsyncGenerator<Uint8Array> {
    // Already there when pre-copy was used and the set has stopped its devices.
    const entered = await this.#enter('STOP_COPY', signal);
    if (entered === null) return;
    const { session, begun } = entered;
    this.#saved = true;
    if (begun) yield stateHeader(this.kind);
    for (;;) {
      const piece = await unlessAborted(session, signal);
      if (piece === null) return;
      yield piece;
    }
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
    return this.#turns.take(async () => {
      this.#mustRestart = false;
      this.#streamed = false;
      if (this.#session === null) return;
      const to = WITHOUT_SESSION[this.migration.state()] ?? 'RUNNING';
      await this.#endSaving(() => this.migration.moveTo(to));
    });
  }

  /** The destination has nothing, or what it had is void: the next `precopy` begins with the first byte, in a new session. */
  restart(): Promise<void> {
    return this.release();
  }

  /** No DMA into other devices any more; nothing to do for a device that has no such state. */
  holdPeerDma(): Promise<void> {
    return this.#turns.take(async () => {
      if (!this.migration.capabilities.p2p) return;
      const state = this.migration.state();
      if (state === 'PRE_COPY') await this.migration.moveTo('PRE_COPY_P2P');
      else if (state === 'RUNNING') await this.migration.moveTo('RUNNING_P2P');
    });
  }

  /** No DMA at all any more. A pre-copy session goes on. */
  stop(): Promise<void> {
    return this.#turns.take(async () => {
      const state = this.migration.state();
      if (state === 'PRE_COPY' || state === 'PRE_COPY_P2P') await this.migration.moveTo('STOP_COPY');
      else if (state === 'RUNNING' || state === 'RUNNING_P2P') await this.migration.moveTo('STOP');
    });
  }

  /**
   * Runs again, but for DMA into other devices. When there is no way, the device is reset.
   *
   * @returns why it had to be reset; null as a rule
   */
  startWithoutPeers(): Promise<DeviceReset | null> {
    return this.#turns.take(async () => {
      if (this.#streams()) return null;
      return this.#towards(this.migration.capabilities.p2p ? 'RUNNING_P2P' : 'STOP');
    });
  }

  /** Runs as before, and streams on if it did. The same way out as `startWithoutPeers`. */
  start(): Promise<DeviceReset | null> {
    return this.#turns.take(async () => {
      if (!this.#streams()) return this.#towards('RUNNING');
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
      await this.#session?.close();
      this.#session = null;
      await this.#loading.reset();
    });
  }

  async *#precopy(): AsyncGenerator<Uint8Array> {
    const state = this.migration.state();
    if (state === 'STOP' || state === 'STOP_COPY') return;
    const entered = await this.#enter(STREAMS_IN[state] ?? 'PRE_COPY');
    if (entered === null) return;
    const { session, begun } = entered;
    this.#streamed = true;
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

  /** Whether it is in pre-copy with a session that the destination has followed. */
  #streams(): boolean {
    const state = this.migration.state();
    return this.#session !== null && (state === 'PRE_COPY' || state === 'PRE_COPY_P2P');
  }

  /** Into a state of saving, with the session that belongs to it; null when that was given up before it began. */
  #enter(
    state: MigrationState,
    signal?: AbortSignal,
  ): Promise<{ readonly session: DataSession; readonly begun: boolean } | null> {
    return this.#turns.take(async () => {
      if (signal?.aborted === true) return null;
      await this.#endGivenUpSave();
      if (this.#session === null) {
        this.#session = await this.#begin(state);
        return { session: this.#session, begun: true };
      }
      await this.migration.moveTo(state);
      return { session: this.#session, begun: false };
    });
  }

  /** What a `save` that was given up has read is not read again: a new session has it, unless the destination followed this one. */
  async #endGivenUpSave(): Promise<void> {
    this.#mustRestart ||= this.#saved && this.#streamed;
    if (this.#mustRestart) {
      throw new GodwitError(
        'GODWIT_INVALID_STATE',
        `${this.id} must be told to restart before it is saved again: its data session ended when a stop-and-copy was given up, and another one begins with its first byte`,
      );
    }
    if (this.#saved) await this.#endSaving(() => this.migration.moveTo('STOP'));
  }

  async #begin(state: MigrationState): Promise<DataSession> {
    // A session that somebody left behind: its descriptor is lost, so it has to end first.
    const without = WITHOUT_SESSION[state];
    if (without !== undefined && this.migration.state() === state) await this.migration.moveTo(without);
    const fd = await this.migration.moveTo(state);
    if (fd === null) {
      throw new GodwitError('GODWIT_DEVICE_FAILED', `${this.id} went to ${state} without a descriptor for its state`);
    }
    return new DataSession(this.#device.port, fd, this.id);
  }

  async #towards(state: MigrationState): Promise<DeviceReset | null> {
    // A reset has taken it further already.
    if (this.migration.state() === 'RUNNING') return null;
    this.#mustRestart ||= this.#session !== null && this.#streamed;
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
    this.#saved = false;
    try {
      await move();
    } finally {
      await session?.close();
    }
  }
}

/**
 * The next piece; null at the end, and once `signal` aborts. A read that waits for the device is left to itself then: it ends
 * when the device leaves STOP_COPY, and the session is closed after it.
 */
async function unlessAborted(session: DataSession, signal: AbortSignal | undefined): Promise<Uint8Array | null> {
  if (signal?.aborted === true) return null;
  const reading = session.read('stop-copy');
  if (signal === undefined) return reading;
  let onAbort = (): void => undefined;
  const aborted = new Promise<null>((resolve) => {
    onAbort = () => resolve(null);
    signal.addEventListener('abort', onAbort, { once: true });
  });
  try {
    return await Promise.race([reading, aborted]);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}

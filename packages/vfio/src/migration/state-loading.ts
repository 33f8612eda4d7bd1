import { GodwitError } from '@godwit/core';
import type { VfioDevice } from '../device/vfio-device.js';
import { DataSession } from './data-session.js';
import type { DeviceMigration } from './device-migration.js';
import { StateHeaderReader } from './state-header.js';
import { RecordReader } from './state-records.js';

/** One stream of state on its way into the device. */
interface Load {
  /** The session to which it is written, once its header was read. */
  opening: Promise<DataSession> | null;
  /** The change RESUMING -> STOP, in which the driver loads the written state. */
  completing: Promise<unknown> | null;
}

/**
 * The destination's side of a device: state that comes as one stream is written in RESUMING, and loaded on the way to STOP. A
 * device in STOP can be loaded again. A device leaves RESUMING only with complete state or by a reset, and RESUMING takes the
 * output of only one session of the source (`enum vfio_device_mig_state`, linux/vfio.h).
 */
export class StateLoading {
  readonly #id: string;
  readonly #kind: string;
  readonly #device: VfioDevice;
  readonly #migration: DeviceMigration;
  /** The present load; a load that finds another one here is void. */
  #load: Load | null = null;

  constructor(id: string, kind: string, device: VfioDevice, migration: DeviceMigration) {
    this.#id = id;
    this.#kind = kind;
    this.#device = device;
    this.#migration = migration;
  }

  /** @throws GodwitError see `VfioMigratableDevice.load`; GODWIT_CANCELLED when `reset` came first */
  async load(state: AsyncIterable<Uint8Array>): Promise<void> {
    const load: Load = { opening: null, completing: null };
    this.#load = load;
    try {
      await this.#write(state, load);
    } catch (error) {
      if (this.#load !== load) throw this.#voided();
      await closed(load);
      await this.#leaveResuming();
      throw error;
    } finally {
      await closed(load);
      if (this.#load === load) this.#load = null;
    }
  }

  /** Makes everything that was loaded void: a load under way fails, and the device takes state from its first byte again. */
  async reset(): Promise<void> {
    const load = this.#load;
    this.#load = null;
    if (load !== null) {
      await closed(load);
      await load.completing?.catch(() => undefined);
    }
    await this.#leaveResuming();
  }

  async #write(state: AsyncIterable<Uint8Array>, load: Load): Promise<void> {
    const header = new StateHeaderReader(this.#kind);
    const records = new RecordReader();
    for await (const chunk of state) {
      this.#requireCurrent(load);
      for (const part of records.take(header.take(chunk))) {
        if (part === 'from the beginning') await this.#beginAnew(load);
        else await (await this.#opened(load)).write(part);
        this.#requireCurrent(load);
      }
    }
    this.#requireCurrent(load);
    if (!header.done || !records.whole) {
      throw new GodwitError(
        'GODWIT_BAD_STREAM',
        `the state of ${this.#id} ends ${header.done ? 'in the middle of a record' : "before the device's own part begins"}`,
      );
    }
    await this.#opened(load);
    this.#requireCurrent(load);
    // In this change the driver loads the state, and fails for a state that it does not understand.
    load.completing = this.#migration.moveTo('STOP');
    await load.completing;
    this.#requireCurrent(load);
  }

  #opened(load: Load): Promise<DataSession> {
    load.opening ??= this.#open();
    return load.opening;
  }

  /** The guest has reset its device at the source. RESUMING takes one session's output, so the device is reset here too. */
  async #beginAnew(load: Load): Promise<void> {
    await closed(load);
    this.#requireCurrent(load);
    load.opening = null;
    await this.#leaveResuming();
  }

  async #open(): Promise<DataSession> {
    const fd = await this.#migration.moveTo('RESUMING');
    if (fd !== null) return new DataSession(this.#device.port, fd, this.#id);
    throw new GodwitError('GODWIT_DEVICE_FAILED', `${this.#id} went to RESUMING without a descriptor for its state`);
  }

  async #leaveResuming(): Promise<void> {
    const state = this.#migration.state();
    if (state === 'RESUMING' || state === 'ERROR') await this.#device.reset();
  }

  #requireCurrent(load: Load): void {
    if (this.#load !== load) throw this.#voided();
  }

  #voided(): GodwitError {
    return new GodwitError('GODWIT_CANCELLED', `the state that ${this.#id} was being loaded with is void`);
  }
}

/** Closes the session of a load, after the write under way. */
async function closed({ opening }: Load): Promise<void> {
  const session = await opening?.catch(() => null);
  await session?.close();
}

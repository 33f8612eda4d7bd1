import { type DirtyBitmaps, type DirtyTracker, GodwitError, type GuestMemory } from '@godwit/core';
import { HOST_PAGE_SIZE, trackerFailed } from '@godwit/linux/unstable';
import type { VfioDevice } from '../device/vfio-device.js';
import type { DmaMapping, DmaSpace } from '../dma-space.js';
import { DeviceMigration } from '../migration/device-migration.js';
import type { MigrationState } from '../migration/migration-state.js';
import { MappingTranslation } from './iova-translation.js';

/** The states in which a device does no DMA. */
const STANDS: ReadonlySet<MigrationState> = new Set(['STOP', 'STOP_COPY', 'RESUMING']);

/**
 * The tracker of a device that is not tracked while it runs (QEMU: x-pre-copy-dirty-page-tracking=off): everything that the device
 * can reach is reported once, after it was stopped, and sent then. No page is reported before that, so that pre-copy converges on
 * the writes of the others; every prediction includes the downtime for all these pages.
 *
 * @example
 * const trackers = [kvmTracker, new StoppedDeviceTracker(device, container, memory)];
 */
export class StoppedDeviceTracker implements DirtyTracker {
  readonly name: string;
  readonly exact = false;
  readonly blindSpots: string;
  readonly #migration: DeviceMigration;
  readonly #space: DmaSpace;
  readonly #memory: GuestMemory;
  readonly #translations = new Map<DmaMapping, MappingTranslation>();
  #departed: MappingTranslation[] = [];
  #unlisten: (() => void) | null = null;
  /** True when everything was reported since the device has stopped. */
  #reported = false;

  /**
   * @param space the address space of the device
   * @throws GodwitError GODWIT_UNSUPPORTED when the device cannot migrate: its state cannot be read then, so that it is not known
   * whether it is stopped
   */
  constructor(device: VfioDevice, space: DmaSpace, memory: GuestMemory, name = `vfio-stopped ${device.name}`) {
    this.name = name;
    this.blindSpots = `everything but DMA of ${device.name}, of which all that it can reach counts as written once it is stopped`;
    this.#migration = new DeviceMigration(device);
    this.#space = space;
    this.#memory = memory;
  }

  async start(): Promise<void> {
    if (this.#unlisten !== null) {
      throw new GodwitError('GODWIT_INVALID_STATE', `dirty tracker ${this.name} runs already`);
    }
    this.#reported = false;
    this.#unlisten = this.#space.listen({
      unmapped: (mapping) => {
        this.#departed.push(this.#translationOf(mapping));
        this.#translations.delete(mapping);
      },
    });
  }

  async harvest(into: DirtyBitmaps): Promise<void> {
    if (this.#unlisten === null) {
      throw new GodwitError('GODWIT_INVALID_STATE', `dirty tracker ${this.name} does not run`);
    }
    // A mapping whose unmap is under way is reported here, or with those that are gone.
    const unfinished = await this.#space.changesDone();
    if (unfinished !== null) this.#translationOf(unfinished).reportAll(into);
    // Mappings that are gone cannot be written any more, and need not wait for the stop.
    for (const translation of this.#departed.splice(0)) translation.reportAll(into);
    let state: MigrationState;
    try {
      state = await this.#migration.stateAsync();
    } catch (error) {
      this.#reportAll(into);
      throw trackerFailed(this.name, 'harvest', error);
    }
    if (!STANDS.has(state)) this.#reported = false;
    else if (!this.#reported) {
      this.#reportAll(into);
      this.#reported = true;
    }
  }

  whenStopped(into: DirtyBitmaps): void {
    if (!this.#reported) this.#reportAll(into);
  }

  async stop(): Promise<void> {
    this.#unlisten?.();
    this.#unlisten = null;
    this.#departed = [];
    this.#translations.clear();
  }

  #reportAll(into: DirtyBitmaps): void {
    for (const mapping of this.#space.mappings) this.#translationOf(mapping).reportAll(into);
  }

  #translationOf(mapping: DmaMapping): MappingTranslation {
    const known = this.#translations.get(mapping);
    if (known !== undefined) return known;
    const made = new MappingTranslation(mapping, this.#memory, HOST_PAGE_SIZE);
    this.#translations.set(mapping, made);
    return made;
  }
}

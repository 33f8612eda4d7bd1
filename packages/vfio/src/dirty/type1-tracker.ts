import { type DirtyBitmaps, type DirtyTracker, GodwitError, type GuestMemory } from '@godwit/core';
import { trackerFailed } from '@godwit/linux/unstable';
import { bitmapLimitBlocker } from '../type1/mapping-pieces.js';
import type { Type1Container } from '../type1/type1-container.js';
import { SpaceLog } from './space-log.js';

/** What the last harvest found, for statistics. */
export interface Type1Harvest {
  /** Pages of guest RAM that devices of the container can reach. */
  readonly mappedPages: number;
  /** Bits that the kernel reported for them, in its own page size. */
  readonly dirtyPages: number;
  /** Harvests in a row, this one included, in which every mapped page was dirty. */
  readonly allDirtyInARow: number;
}

/**
 * Tracks the writes of devices in a type1 container (VFIO_IOMMU_DIRTY_PAGES).
 *
 * How exact the log is depends on the drivers of the devices:
 *
 * - A device behind an IOMMU (vfio-pci), whose driver does not pin single pages: **every mapped page is dirty at every
 *   harvest**, so that a migration cannot converge on it; `lastHarvest.allDirtyInARow` and the round records show it.
 * - Drivers that pin the pages they use (mediated devices: GPUs, AP, CCW): pinned pages are dirty at every harvest, pages
 *   that were pinned meanwhile once more, and pages written by `vfio_dma_rw` once.
 * - Both in one container: as with the first kind.
 *
 * In every case all written pages are reported, and pages that were not written may be: `exact` is false.
 *
 * @example
 * const tracker = new VfioType1Tracker(container, memory);
 * migrate({ ...vm, trackers: [kvmTracker, tracker] }, connector);
 */
export class VfioType1Tracker implements DirtyTracker {
  readonly name: string;
  readonly exact = false;
  readonly blindSpots =
    'writes by vCPUs, by this process and by devices outside the container; of devices behind an IOMMU it cannot tell which ' +
    'pages they wrote, and reports all that are mapped';
  readonly #container: Type1Container;
  readonly #log: SpaceLog;
  #busy = false;
  #lastHarvest: Type1Harvest = { mappedPages: 0, dirtyPages: 0, allDirtyInARow: 0 };

  /**
   * @param name default `vfio-type1`; give the containers of one VM different names
   * @throws GodwitError GODWIT_UNSUPPORTED when the container cannot track
   */
  constructor(container: Type1Container, memory: GuestMemory, name = 'vfio-type1') {
    this.name = name;
    this.#container = container;
    this.#log = new SpaceLog(container, memory, container.dirtyLog);
  }

  /** What the last harvest has found; zeros before the first. */
  get lastHarvest(): Type1Harvest {
    return this.#lastHarvest;
  }

  /** The reason when a mapping is too large for the kernel's limit on bitmaps. */
  migrationBlocker(): string | undefined {
    const { mappings, info } = this.#container;
    return info.dirtyTracking === null ? undefined : bitmapLimitBlocker(mappings, info.dirtyTracking);
  }

  async start(): Promise<void> {
    const { dirtyLog } = this.#container;
    try {
      await this.#log.start({ unmapped: (mapping, dirty) => this.#log.departed(mapping, dirty) }, async () => {
        // A mapping whose log the kernel would refuse must fail at the start and not at the first harvest.
        for (const mapping of this.#container.mappings) dirtyLog.checkSize(mapping);
        await dirtyLog.start();
      });
    } catch (error) {
      if (GodwitError.is(error) && error.code === 'GODWIT_INVALID_STATE') throw error;
      throw trackerFailed(this.name, 'start', error);
    }
    this.#lastHarvest = { mappedPages: 0, dirtyPages: 0, allDirtyInARow: 0 };
  }

  /**
   * One call for each mapping, on a pool thread: the kernel holds the container's lock meanwhile, and so may a call that
   * maps memory. Hundreds of small mappings are read in slices on the event loop.
   *
   * @throws GodwitError GODWIT_TRACKER_FAILED when a bitmap could not be read; every page of that mapping is then set in
   * `into`, and the bits of the other mappings are too
   */
  async harvest(into: DirtyBitmaps): Promise<void> {
    if (!this.#log.running) throw new GodwitError('GODWIT_INVALID_STATE', `dirty tracker ${this.name} does not run`);
    if (this.#busy) throw new GodwitError('GODWIT_INVALID_STATE', `a harvest of ${this.name} is under way`);
    this.#busy = true;
    try {
      const { mappedPages, dirtyPages, failure } = await this.#log.harvest(into);
      const allDirty = mappedPages > 0 && dirtyPages === mappedPages;
      const allDirtyInARow = allDirty ? this.#lastHarvest.allDirtyInARow + 1 : 0;
      this.#lastHarvest = { mappedPages, dirtyPages, allDirtyInARow };
      if (failure !== undefined) throw trackerFailed(this.name, 'harvest', failure);
    } finally {
      this.#busy = false;
    }
  }

  async stop(): Promise<void> {
    try {
      await this.#log.stop(() => this.#container.dirtyLog.stop());
    } catch (error) {
      throw trackerFailed(this.name, 'stop', error);
    }
  }
}

import { type DirtyBitmap, type DirtyBitmaps, type DirtyTracker, GodwitError, type GuestMemory } from '@godwit/core';
import { SyscallError } from '@godwit/linux';
import type { DmaMapping } from '../dma-space.js';
import type { Type1Container } from '../type1/type1-container.js';
import type { MappingDirtyLog } from '../type1/type1-dirty-log.js';
import { bitmapLimitBlocker } from './bitmap-limit.js';
import { MappingTranslation } from './iova-translation.js';
import { PerMapping } from './per-mapping.js';
import { trackerFailed } from './tracker-error.js';

/** What the last harvest found, for statistics. */
export interface Type1Harvest {
  /** Pages of guest RAM that devices of the container can reach. */
  readonly mappedPages: number;
  /** Bits that the kernel reported for them, in its own page size. */
  readonly dirtyPages: number;
  /** Harvests in a row, this one included, in which every mapped page was dirty. */
  readonly allDirtyInARow: number;
}

interface MappingLog {
  readonly log: MappingDirtyLog;
  readonly translation: MappingTranslation;
}

/**
 * What devices in a type1 container wrote (VFIO_IOMMU_DIRTY_PAGES).
 *
 * How much that says depends on the drivers of the devices:
 *
 * - A device behind an IOMMU (vfio-pci) that does not tell its driver's pages apart: **every mapped page is dirty at every
 *   harvest**, so that a migration cannot converge on it; `lastHarvest.allDirtyInARow` and the round records show it.
 * - Drivers that pin the pages they use (mediated devices: GPUs, AP, CCW): pinned pages are dirty at every harvest, pages
 *   that were pinned meanwhile once more, and pages written by `vfio_dma_rw` once.
 * - Both in one container: the first rules.
 *
 * Either way nothing that was written is ever missed, and pages that were not may be reported: `exact` is false.
 */
export class VfioType1Tracker implements DirtyTracker {
  readonly name: string;
  readonly exact = false;
  readonly blindSpots =
    'writes by vCPUs, by this process and by devices outside the container; of devices behind an IOMMU it cannot tell which ' +
    'pages they wrote, and reports all that are mapped';
  readonly #container: Type1Container;
  readonly #logs: PerMapping<MappingLog>;
  /** Bits of mappings that went since the last harvest, and the RAM they belong to; null when all of it is dirty. */
  #departed: { readonly translation: MappingTranslation; readonly dirty: DirtyBitmap | null }[] = [];
  #unlisten: (() => void) | null = null;
  #busy = false;
  readonly #translate: (mapping: DmaMapping) => MappingTranslation;
  #lastHarvest: Type1Harvest = { mappedPages: 0, dirtyPages: 0, allDirtyInARow: 0 };

  /**
   * @param name default `vfio-type1`; tell containers of one VM apart by it
   * @throws GodwitError GODWIT_UNSUPPORTED when the container cannot track
   */
  constructor(container: Type1Container, memory: GuestMemory, name = 'vfio-type1') {
    this.name = name;
    this.#container = container;
    const { dirtyLog } = container;
    this.#logs = new PerMapping((mapping) => ({
      log: dirtyLog.of(mapping),
      translation: new MappingTranslation(mapping, memory, dirtyLog.pageSize),
    }));
    this.#translate = (mapping) => new MappingTranslation(mapping, memory, dirtyLog.pageSize);
  }

  get lastHarvest(): Type1Harvest {
    return this.#lastHarvest;
  }

  /** The kernel gives bitmaps of a limited size. */
  migrationBlocker(): string | undefined {
    const { mappings, info } = this.#container;
    return info.dirtyTracking === null ? undefined : bitmapLimitBlocker(mappings, info.dirtyTracking);
  }

  async start(): Promise<void> {
    // Before tracking is on: a mapping that the kernel would not tell about must not wait for the first harvest.
    try {
      this.#logs.of(this.#container.mappings);
      await this.#container.dirtyLog.start();
    } catch (error) {
      if (GodwitError.is(error) && error.code === 'GODWIT_INVALID_STATE') throw error;
      throw trackerFailed(this.name, 'start', error);
    }
    this.#departed = [];
    this.#lastHarvest = { mappedPages: 0, dirtyPages: 0, allDirtyInARow: 0 };
    this.#unlisten = this.#container.listen({
      unmapped: (mapping, dirty) => this.#departed.push({ translation: this.#translate(mapping), dirty }),
    });
  }

  /**
   * One call for each mapping, on a pool thread: the kernel holds the container's lock meanwhile, and so may somebody who
   * maps memory.
   *
   * @throws GodwitError GODWIT_TRACKER_FAILED when a bitmap could not be read; every page of that mapping is then set in
   * `into`, and the bits of the other mappings are too
   */
  async harvest(into: DirtyBitmaps): Promise<void> {
    if (this.#unlisten === null)
      throw new GodwitError('GODWIT_INVALID_STATE', `dirty tracker ${this.name} does not run`);
    if (this.#busy) throw new GodwitError('GODWIT_INVALID_STATE', `a harvest of ${this.name} is under way`);
    this.#busy = true;
    try {
      await this.#harvest(into);
    } finally {
      this.#busy = false;
    }
  }

  async stop(): Promise<void> {
    if (this.#unlisten === null) return;
    this.#unlisten();
    this.#unlisten = null;
    this.#departed = [];
    try {
      await this.#container.dirtyLog.stop();
    } catch (error) {
      throw trackerFailed(this.name, 'stop', error);
    }
  }

  async #harvest(into: DirtyBitmaps): Promise<void> {
    let mappedPages = 0;
    let dirtyPages = 0;
    let allDirty = true;
    let failure: SyscallError | undefined;
    for (const { log, translation } of this.#logs.of(this.#container.mappings)) {
      const result = await log.read();
      mappedPages += log.bitmap.pageCount;
      if (result < 0) {
        translation.reportAll(into);
        dirtyPages += log.bitmap.pageCount;
        failure ??= new SyscallError('VFIO_IOMMU_DIRTY_PAGES', -result, `GET_BITMAP of ${described(log.mapping)}`);
        continue;
      }
      const dirty = log.bitmap.count();
      dirtyPages += dirty;
      allDirty &&= dirty === log.bitmap.pageCount;
      if (dirty > 0) translation.report(log.bitmap, into);
    }
    for (const { translation, dirty } of this.#departed.splice(0)) {
      if (dirty === null) translation.reportAll(into);
      else translation.report(dirty, into);
    }
    const inARow = allDirty && mappedPages > 0 ? this.#lastHarvest.allDirtyInARow + 1 : 0;
    this.#lastHarvest = { mappedPages, dirtyPages, allDirtyInARow: inARow };
    if (failure !== undefined) throw trackerFailed(this.name, 'harvest', failure);
  }
}

function described({ iova, byteLength }: DmaMapping): string {
  return `${byteLength} bytes at IOVA 0x${iova.toString(16)}`;
}

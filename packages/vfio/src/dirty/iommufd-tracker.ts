import { type DirtyBitmaps, type DirtyTracker, GodwitError, type GuestMemory } from '@godwit/core';
import { SyscallError } from '@godwit/linux';
import type { HardwareDirtyLog, HardwarePagetable } from '../iommufd/hardware-pagetable.js';
import { MappingTranslation } from './iova-translation.js';
import { PerMapping } from './per-mapping.js';
import { trackerFailed } from './tracker-error.js';

interface MappingLog {
  readonly log: HardwareDirtyLog;
  readonly translation: MappingTranslation;
}

/**
 * What devices wrote through one page table of the IOMMU's, by the IOMMU's own dirty bits. As coarse as its entries: where the
 * kernel has mapped memory in pieces of 2 MiB, one write makes 512 pages dirty.
 */
export class IommufdTracker implements DirtyTracker {
  readonly name: string;
  readonly exact = false;
  readonly blindSpots = 'writes by vCPUs, by this process, and by devices that are not attached to this page table';
  readonly #pagetable: HardwarePagetable;
  readonly #translate: (mapping: HardwareDirtyLog['mapping']) => MappingTranslation;
  readonly #logs: PerMapping<MappingLog>;
  #departed: MappingTranslation[] = [];
  #unlisten: (() => void) | null = null;

  /** @param pageSize bytes that a bit stands for; default 4096. Mappings are multiples of it */
  constructor(pagetable: HardwarePagetable, memory: GuestMemory, name = 'iommufd', pageSize = 4096) {
    this.name = name;
    this.#pagetable = pagetable;
    this.#translate = (mapping) => new MappingTranslation(mapping, memory, pageSize);
    this.#logs = new PerMapping((mapping) => ({
      log: pagetable.of(mapping, pageSize),
      translation: this.#translate(mapping),
    }));
  }

  async start(): Promise<void> {
    if (this.#unlisten !== null)
      throw new GodwitError('GODWIT_INVALID_STATE', `dirty tracker ${this.name} runs already`);
    try {
      this.#logs.of(this.#pagetable.ioas.mappings);
      await this.#pagetable.setTracking(true);
    } catch (error) {
      throw trackerFailed(this.name, 'start', error);
    }
    this.#departed = [];
    this.#unlisten = this.#pagetable.ioas.listen({
      unmapped: (mapping) => this.#departed.push(this.#translate(mapping)),
    });
  }

  async harvest(into: DirtyBitmaps): Promise<void> {
    if (this.#unlisten === null)
      throw new GodwitError('GODWIT_INVALID_STATE', `dirty tracker ${this.name} does not run`);
    let failure: unknown;
    for (const { log, translation } of this.#logs.of(this.#pagetable.ioas.mappings)) {
      const result = await log.read();
      if (result >= 0) {
        translation.report(log.bitmap, into);
        continue;
      }
      translation.reportAll(into);
      const { iova, byteLength } = log.mapping;
      failure ??= new SyscallError(
        'IOMMU_HWPT_GET_DIRTY_BITMAP',
        -result,
        `of ${byteLength} bytes at IOVA 0x${iova.toString(16)}`,
      );
    }
    // Between the last look at a mapping and its end a device may have written: all of it is dirty.
    for (const translation of this.#departed.splice(0)) translation.reportAll(into);
    if (failure !== undefined) throw trackerFailed(this.name, 'harvest', failure);
  }

  async stop(): Promise<void> {
    if (this.#unlisten === null) return;
    this.#unlisten();
    this.#unlisten = null;
    this.#departed = [];
    try {
      await this.#pagetable.setTracking(false);
    } catch (error) {
      throw trackerFailed(this.name, 'stop', error);
    }
  }
}

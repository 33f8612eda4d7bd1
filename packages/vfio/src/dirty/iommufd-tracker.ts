import { DirtyBitmap, type DirtyBitmaps, type DirtyTracker, GodwitError, type GuestMemory } from '@godwit/core';
import { trackerFailed } from '@godwit/linux/unstable';
import type { DmaMapping } from '../dma-space.js';
import type { HardwarePagetable } from '../iommufd/hardware-pagetable.js';
import { SpaceLog } from './space-log.js';

/**
 * Tracks the writes of devices through one page table of the IOMMU, by the IOMMU's own dirty bits. A bit is as coarse as an
 * entry of the table: where the kernel has mapped memory in pieces of 2 MiB, one write makes 512 pages dirty.
 *
 * All of a mapping that is unmapped counts as dirty, unless the caller said that its devices are stopped (`Ioas.unmap`).
 *
 * @example
 * const tracker = new IommufdTracker(iommufd.allocateTracking(node.deviceId, ioas), memory);
 */
export class IommufdTracker implements DirtyTracker {
  readonly name: string;
  readonly exact = false;
  readonly blindSpots = 'writes by vCPUs, by this process, and by devices that are not attached to this page table';
  readonly #pagetable: HardwarePagetable;
  readonly #pageSize: number;
  readonly #log: SpaceLog;
  /** The dirty bits of a mapping right before its end, with its devices stopped. */
  readonly #last = new Map<DmaMapping, DirtyBitmap>();

  /** @param pageSize bytes that a bit stands for; default 4096. Mappings are multiples of it */
  constructor(pagetable: HardwarePagetable, memory: GuestMemory, name = 'iommufd', pageSize = 4096) {
    this.name = name;
    this.#pagetable = pagetable;
    this.#pageSize = pageSize;
    this.#log = new SpaceLog(pagetable.ioas, memory, {
      pageSize,
      read: (mapping, bitmap) => pagetable.read(mapping, bitmap, pageSize),
      readNow: (mapping, bitmap) => pagetable.readNow(mapping, bitmap, pageSize),
      error: (mapping, result) => pagetable.readError(mapping, result),
    });
  }

  async start(): Promise<void> {
    if (this.#log.running) throw new GodwitError('GODWIT_INVALID_STATE', `dirty tracker ${this.name} runs already`);
    const listener = {
      unmapping: (mapping: DmaMapping, stopped: boolean) => this.#unmapping(mapping, stopped),
      unmapped: (mapping: DmaMapping, _dirty: DirtyBitmap | null, whole: boolean) => this.#unmapped(mapping, whole),
    };
    try {
      await this.#log.start(listener, async () => {
        for (const mapping of this.#pagetable.ioas.mappings) this.#pagetable.checkPageSize(mapping, this.#pageSize);
        await this.#pagetable.setTracking(true);
      });
    } catch (error) {
      throw trackerFailed(this.name, 'start', error);
    }
  }

  async harvest(into: DirtyBitmaps): Promise<void> {
    if (!this.#log.running) throw new GodwitError('GODWIT_INVALID_STATE', `dirty tracker ${this.name} does not run`);
    const { failure } = await this.#log.harvest(into);
    if (failure !== undefined) throw trackerFailed(this.name, 'harvest', failure);
  }

  async stop(): Promise<void> {
    try {
      await this.#log.stop(() => this.#pagetable.setTracking(false));
    } catch (error) {
      throw trackerFailed(this.name, 'stop', error);
    }
  }

  async #unmapping(mapping: DmaMapping, stopped: boolean): Promise<void> {
    if (!stopped) return;
    const bitmap = new DirtyBitmap(mapping.byteLength / this.#pageSize);
    bitmap.clearAll();
    const result = await this.#pagetable.read(mapping, bitmap, this.#pageSize).catch(() => -1);
    bitmap.maskTail();
    if (result >= 0) this.#last.set(mapping, bitmap);
  }

  /** Between the last read of a mapping's log and its end a device may have written: all of it counts as dirty. */
  #unmapped(mapping: DmaMapping, whole: boolean): void {
    this.#log.departed(mapping, whole ? (this.#last.get(mapping) ?? null) : null);
    this.#last.delete(mapping);
  }
}

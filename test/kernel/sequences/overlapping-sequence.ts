import { setImmediate } from 'node:timers/promises';
import { DirtyBitmaps, type DirtyTracker, PageRunList } from '@godwit/core';
import type { MappedGuestMemory } from '@godwit/linux';
import type { DmaMapping, DmaSpace, MapRequest } from '@godwit/vfio';
import { IommufdRequest, Type1 } from '@godwit/vfio/unstable';
import type { HeldCalls } from './held-calls.js';
import { SeededRandom } from './seeded-random.js';

/** Where sequences run: an address space, one tracker of it, and a device, on a kernel whose slow calls are held. */
export interface OverlapPlace {
  readonly space: DmaSpace & {
    map(request: MapRequest): Promise<DmaMapping>;
    unmap(which: Pick<DmaMapping, 'iova' | 'byteLength'>): Promise<void>;
  };
  readonly tracker: DirtyTracker;
  /** Guest memory of one block. */
  readonly memory: MappedGuestMemory;
  readonly calls: HeldCalls;
  /** The first address that may be mapped. */
  readonly iova: number;
  /** The device writes some bytes of a mapped page. The result is below 0 if that fails. */
  write(iova: number): number;
  /** So much time passes that a harvest waits no longer for changes. Absent: it never does. */
  readonly timePasses?: () => void;
}

const PAGE = 4096;
/** Adjacent places in the address space at which mappings are made and removed. */
const SLOTS = 5;
const SLOT_PAGES = 6;
const STEPS = 80;
const CHANGES = new Set<number>([
  Type1.VFIO_IOMMU_MAP_DMA,
  Type1.VFIO_IOMMU_UNMAP_DMA,
  IommufdRequest.IOMMU_IOAS_MAP,
  IommufdRequest.IOMMU_IOAS_UNMAP,
]);

/**
 * One random sequence of map, unmap, map elsewhere, device write and harvest, none of which waits for another: each call of the
 * kernel is made, and its result delivered, at a separate, random moment.
 *
 * The device writes where the kernel has mapped something at that moment. As an engine does, the sequence copies the pages that
 * a harvest reports right after the harvest. By then every copied page must be at least as new as when the harvest began, and
 * after the last harvest all copies must equal the pages. It throws if one does not.
 */
export async function runOverlappingSequence(place: OverlapPlace, seed: number): Promise<void> {
  const sequence = new OverlappingSequence(place, seed);
  try {
    await sequence.run();
  } catch (error) {
    throw new Error(`seed ${seed}: ${(error as Error).message}\n${sequence.log.join('\n')}`, { cause: error });
  } finally {
    await sequence.end();
  }
}

class OverlappingSequence {
  readonly log: string[] = [];
  readonly #place: OverlapPlace;
  readonly #random: SeededRandom;
  /** The kernel's mappings: from a page of the address space to a page of RAM. */
  readonly #truth = new Map<number, number>();
  /** Slots that will be mapped once all requested changes are done. */
  readonly #mapped = new Set<number>();
  /** The number of writes to each page of RAM, and that number at the time of its last copy. */
  readonly #written: Uint32Array;
  readonly #copied: Uint32Array;
  readonly #changes = new Set<Promise<unknown>>();
  #harvest: Promise<void> | null = null;
  #failure: unknown;

  constructor(place: OverlapPlace, seed: number) {
    this.#place = place;
    this.#random = new SeededRandom(seed);
    const pages = (place.memory.blocks[0]?.byteLength ?? 0) / PAGE;
    this.#written = new Uint32Array(pages);
    this.#copied = new Uint32Array(pages);
  }

  async run(): Promise<void> {
    const { calls, tracker } = this.#place;
    calls.onPerformed = (request, argument, result) => this.#performed(request, argument, result);
    // The whole address space is mapped at the start, so that devices that log do so for all of it.
    for (let slot = 0; slot < SLOTS; slot++) this.#map(slot);
    await this.#settled();
    await tracker.start();
    calls.holding = true;
    for (let i = 0; i < STEPS; i++) {
      this.#step();
      await setImmediate();
      if (this.#failure !== undefined) throw this.#failure;
    }
    // The VM is paused: its device stops, and pending calls end during the last harvest.
    this.#beginHarvest();
    await this.#settled();
    this.#beginHarvest();
    await this.#settled();
    if (this.#failure !== undefined) throw this.#failure;
    this.#compare(this.#written, 'after the last harvest');
  }

  async end(): Promise<void> {
    const { calls, tracker, space } = this.#place;
    await this.#settled();
    calls.holding = false;
    await tracker.stop();
    for (const mapping of space.mappings) await space.unmap(mapping);
    calls.onPerformed = () => {};
  }

  #step(): void {
    const { calls, timePasses } = this.#place;
    if (timePasses !== undefined && this.#random.integer(10) === 0) {
      this.log.push('time passes');
      timePasses();
      return;
    }
    const what = this.#random.integer(10);
    if (what < 2) this.#write();
    else if (what < 4 && calls.asked.length > 0) this.#performOne();
    else if (what < 6 && calls.performed.length > 0) this.#deliver(this.#random.integer(calls.performed.length));
    else if (what < 7) this.#beginHarvest();
    else this.#change(this.#random.integer(SLOTS));
  }

  /**
   * Reads are late more often than changes, so that in the meantime one mapping may be removed and another one made at its
   * addresses.
   */
  #performOne(): void {
    const { asked } = this.#place.calls;
    const index = this.#random.integer(asked.length);
    const change = CHANGES.has(asked[index]?.request ?? 0);
    if (change || this.#random.integer(4) === 0) this.#perform(index);
  }

  #perform(index: number): void {
    const { calls } = this.#place;
    calls.perform(calls.asked[index] as (typeof calls.asked)[number]);
  }

  #deliver(index: number): void {
    const { calls } = this.#place;
    const call = calls.performed[index] as (typeof calls.performed)[number];
    this.log.push(`the caller of 0x${call.request.toString(16)} hears of it`);
    calls.deliver(call);
  }

  #change(slot: number): void {
    if (this.#changes.size > 3) return;
    if (this.#mapped.has(slot)) this.#unmap(slot);
    else this.#map(slot);
  }

  #unmap(slot: number): void {
    this.#mapped.delete(slot);
    this.log.push(`unmap slot ${slot} is asked for`);
    const { space } = this.#place;
    this.#ask(space.unmap({ iova: this.#iova(slot), byteLength: SLOT_PAGES * PAGE }));
  }

  #map(slot: number): void {
    const { space, memory } = this.#place;
    const [block] = memory.blocks;
    if (block === undefined) return;
    const page = this.#random.integer(this.#written.length - SLOT_PAGES);
    this.#mapped.add(slot);
    this.log.push(`map slot ${slot} to RAM page ${page} is asked for`);
    const request = {
      iova: this.#iova(slot),
      byteLength: SLOT_PAGES * PAGE,
      guestPhysicalAddress: block.guestPhysicalAddress + page * PAGE,
      hostAddress: block.hostAddress + BigInt(page * PAGE),
    };
    this.#ask(space.map(request));
  }

  #ask(change: Promise<unknown>): void {
    this.#changes.add(change);
    change
      .catch((error: unknown) => {
        this.#failure ??= error;
      })
      .finally(() => this.#changes.delete(change));
  }

  #write(): void {
    const pages = [...this.#truth.keys()];
    if (pages.length === 0) return;
    const page = this.#random.pick(pages);
    const ram = this.#truth.get(page) as number;
    const result = this.#place.write(page * PAGE + this.#random.integer(PAGE - 8));
    if (result < 0) throw new Error(`the device's write failed with ${result}`);
    this.#written[ram] = (this.#written[ram] as number) + 1;
    this.log.push(`the device writes RAM page ${ram}`);
  }

  #beginHarvest(): void {
    if (this.#harvest !== null) return;
    const before = this.#written.slice();
    const into = new DirtyBitmaps(this.#place.memory);
    this.log.push('harvest begins');
    this.#harvest = this.#place.tracker
      .harvest(into)
      .then(() => {
        const reported: number[] = [];
        for (const { firstPage, pageCount } of into.at(0).runs(new PageRunList())) {
          for (let page = firstPage; page < firstPage + pageCount; page++) reported.push(page);
        }
        this.log.push(`harvest: ${reported.join(' ')}`);
        for (const page of reported) this.#copied[page] = this.#written[page] as number;
        this.#compare(before, 'by a harvest that began after it was written');
      })
      .catch((error: unknown) => {
        this.#failure ??= error;
      })
      .finally(() => {
        this.#harvest = null;
      });
  }

  #compare(wanted: Uint32Array, when: string): void {
    const lost = [...wanted.keys()].filter((page) => (this.#copied[page] as number) < (wanted[page] as number));
    if (lost.length > 0) throw new Error(`written and not reported ${when}: pages ${lost.join(' ')}`);
  }

  /** Lets all pending calls end, in an order that the seed determines. */
  async #settled(): Promise<void> {
    const { calls } = this.#place;
    for (let idle = 0; idle < 3; ) {
      if (calls.asked.length > 0) this.#perform(this.#random.integer(calls.asked.length));
      else if (calls.performed.length > 0) this.#deliver(this.#random.integer(calls.performed.length));
      else if (this.#changes.size === 0 && this.#harvest === null) idle++;
      await setImmediate();
    }
  }

  /**
   * Called when the kernel has made a call, with the call's argument. Offsets are those of linux/vfio.h and linux/iommufd.h.
   */
  #performed(request: number, argument: Uint8Array, result: number): void {
    const view = new DataView(argument.buffer, argument.byteOffset);
    const u64 = (offset: number): number => Number(view.getBigUint64(offset, true));
    this.log.push(`the kernel makes 0x${request.toString(16)}: ${result}`);
    if (result < 0) return;
    if (request === Type1.VFIO_IOMMU_MAP_DMA) this.#mappedAt(u64(16), u64(24), u64(8));
    else if (request === IommufdRequest.IOMMU_IOAS_MAP) this.#mappedAt(u64(32), u64(24), u64(16));
    else if (request === Type1.VFIO_IOMMU_UNMAP_DMA || request === IommufdRequest.IOMMU_IOAS_UNMAP) {
      const first = u64(8) / PAGE;
      for (let i = 0; i < SLOT_PAGES; i++) this.#truth.delete(first + i);
    }
  }

  #mappedAt(iova: number, byteLength: number, address: number): void {
    const base = Number(this.#place.memory.blocks[0]?.hostAddress);
    for (let offset = 0; offset < byteLength; offset += PAGE) {
      this.#truth.set((iova + offset) / PAGE, (address + offset - base) / PAGE);
    }
  }

  #iova(slot: number): number {
    return this.#place.iova + slot * SLOT_PAGES * PAGE;
  }
}

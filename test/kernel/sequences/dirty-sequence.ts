import { DirtyBitmaps, PageRunList } from '@godwit/core';
import type { MappedGuestMemory } from '@godwit/linux';
import { type DmaMapping, type Type1Container, VfioType1Tracker } from '@godwit/vfio';
import { SeededRandom } from './seeded-random.js';

/** A device that writes guest memory on command: the test device, or the model's. Calls return 0 or minus errno. */
export interface DmaWriter {
  write(iova: number, bytes: Uint8Array): number;
  pin(iova: number, pages: number): number;
  unpin(iova: number, pages: number): number;
  writePinned(iova: number, bytes: Uint8Array): number;
}

export interface SequencePlace {
  readonly container: Type1Container;
  readonly memory: MappedGuestMemory;
  readonly device: DmaWriter;
}

const PAGE = 4096;
/** IOVAs are chosen from this many pages. */
const IOVA_PAGES = 1024;
const OPERATIONS = 24;

interface Mapped {
  readonly mapping: DmaMapping;
  /** The mapping's first page in guest RAM, counted over all blocks. */
  readonly firstPage: number;
  readonly pages: number;
}

/**
 * One random sequence of map, unmap, device write, pin, unpin and harvest, by `VfioType1Tracker`, against a model that
 * consists of sets of pages. It throws if a page that the device wrote since the last harvest is not reported, and if a
 * page is reported that the device neither wrote nor had pinned meanwhile: pinned pages are the only documented false
 * positives.
 *
 * Leaves the container empty, whatever happens.
 */
export async function runDirtySequence(place: SequencePlace, seed: number): Promise<void> {
  const sequence = new DirtySequence(place, seed);
  try {
    await sequence.run();
  } catch (error) {
    throw new Error(`seed ${seed}: ${(error as Error).message}\n${sequence.log.join('\n')}`, { cause: error });
  } finally {
    await sequence.end();
  }
}

class DirtySequence {
  /** The operations so far, for the message of a failure. */
  readonly log: string[] = [];
  readonly #place: SequencePlace;
  readonly #random: SeededRandom;
  readonly #tracker: VfioType1Tracker;
  readonly #pages: number;
  #mapped: Mapped[] = [];
  /** Pinned pages by IOVA page, with their page in guest RAM. */
  readonly #pinned = new Map<number, number>();
  /** Pages of guest RAM that must be in the next harvest, and those that may. */
  readonly #written = new Set<number>();
  readonly #wasPinned = new Set<number>();
  #tracking = false;
  #stamp = 0;

  constructor(place: SequencePlace, seed: number) {
    this.#place = place;
    this.#random = new SeededRandom(seed);
    this.#tracker = new VfioType1Tracker(place.container, place.memory);
    this.#pages = place.memory.blocks.reduce((sum, { byteLength }) => sum + byteLength / PAGE, 0);
  }

  async run(): Promise<void> {
    // Some mappings and pins exist before tracking starts.
    for (let i = this.#random.integer(4); i > 0; i--) await this.#map();
    for (let i = this.#random.integer(3); i > 0; i--) this.#pin();
    await this.#tracker.start();
    this.#tracking = true;
    this.#written.clear();
    this.#wasPinned.clear();
    for (const page of this.#pinned.values()) this.#wasPinned.add(page);
    this.log.push('start');
    const steps = [
      ...[() => this.#map(), () => this.#unmap(), () => this.#harvest()],
      ...[() => this.#write(), () => this.#write(), () => this.#pin(), () => this.#unpin(), () => this.#writePinned()],
    ];
    for (let i = 0; i < OPERATIONS; i++) await this.#random.pick(steps)();
    await this.#harvest();
    await this.#harvest();
  }

  async end(): Promise<void> {
    await this.#tracker.stop();
    for (const { mapping } of this.#mapped) await this.#place.container.unmap(mapping);
  }

  async #map(): Promise<void> {
    const pages = 1 + this.#random.integer(100);
    const iovaPage = this.#random.integer(IOVA_PAGES - pages);
    const overlaps = this.#mapped.some(
      ({ mapping, pages: count }) => iovaPage < mapping.iova / PAGE + count && mapping.iova / PAGE < iovaPage + pages,
    );
    if (overlaps) return;
    // The memory may be anywhere in a block: two mappings may have the same memory, as with a guest's IOMMU.
    const { memory, container } = this.#place;
    const blockIndex = this.#random.integer(memory.blocks.length);
    const block = memory.blocks[blockIndex] as MappedGuestMemory['blocks'][number];
    const offset = this.#random.integer(block.byteLength / PAGE - pages);
    const before = memory.blocks.slice(0, blockIndex).reduce((sum, { byteLength }) => sum + byteLength / PAGE, 0);
    const mapping = await container.map({
      iova: iovaPage * PAGE,
      byteLength: pages * PAGE,
      guestPhysicalAddress: block.guestPhysicalAddress + offset * PAGE,
      hostAddress: block.hostAddress + BigInt(offset * PAGE),
    });
    this.#mapped.push({ mapping, firstPage: before + offset, pages });
    this.log.push(`map iova page ${iovaPage}, ${pages} pages of RAM from page ${before + offset}`);
  }

  async #unmap(): Promise<void> {
    if (this.#mapped.length === 0) return;
    const gone = this.#random.pick(this.#mapped);
    await this.#place.container.unmap(gone.mapping);
    this.#mapped = this.#mapped.filter((other) => other !== gone);
    // The driver is told of the unmap and unpins its pages.
    const first = gone.mapping.iova / PAGE;
    for (let page = first; page < first + gone.pages; page++) this.#pinned.delete(page);
    this.log.push(`unmap iova page ${first}`);
  }

  /** Writes some bytes, often over the edge of a page, always within one mapping. */
  #write(): void {
    const target = this.#somewhere();
    if (target === undefined) return;
    const { iova, byteLength } = target;
    this.#expect('write', this.#place.device.write(iova, this.#bytes(byteLength)));
    this.#note(iova, byteLength);
    this.log.push(`write ${byteLength} bytes at iova page ${iova / PAGE}`);
  }

  #pin(): void {
    const target = this.#somewhere();
    if (target === undefined) return;
    const page = Math.floor(target.iova / PAGE);
    const count = Math.floor((target.iova + target.byteLength - 1) / PAGE) - page + 1;
    if (range(page, count).some((one) => this.#pinned.has(one))) return;
    this.#expect('pin', this.#place.device.pin(page * PAGE, count));
    for (const one of range(page, count)) {
      this.#pinned.set(one, this.#ramPage(one));
      this.#wasPinned.add(this.#ramPage(one));
    }
    this.log.push(`pin iova page ${page}, ${count} pages`);
  }

  #unpin(): void {
    if (this.#pinned.size === 0) return;
    const page = this.#random.pick([...this.#pinned.keys()]);
    this.#expect('unpin', this.#place.device.unpin(page * PAGE, 1));
    this.#pinned.delete(page);
    this.log.push(`unpin iova page ${page}`);
  }

  #writePinned(): void {
    if (this.#pinned.size === 0) return;
    const iova = this.#random.pick([...this.#pinned.keys()]) * PAGE + this.#random.integer(PAGE - 8);
    this.#expect('write to a pinned page', this.#place.device.writePinned(iova, this.#bytes(8)));
    this.#note(iova, 8);
    this.log.push(`write to the pinned iova page ${iova / PAGE}`);
  }

  async #harvest(): Promise<void> {
    const into = new DirtyBitmaps(this.#place.memory);
    await this.#tracker.harvest(into);
    const reported = new Set<number>();
    let before = 0;
    for (const bitmap of into.blocks) {
      for (const { firstPage, pageCount } of bitmap.runs(new PageRunList())) {
        for (const page of range(before + firstPage, pageCount)) reported.add(page);
      }
      before += bitmap.pageCount;
    }
    this.log.push(`harvest: ${[...reported].join(' ')}`);
    const missed = [...this.#written].filter((page) => !reported.has(page));
    const invented = [...reported].filter((page) => !this.#written.has(page) && !this.#wasPinned.has(page));
    const unreported = [...this.#wasPinned].filter((page) => !reported.has(page));
    if (missed.length > 0) throw new Error(`written and not reported: pages ${missed.join(' ')}`);
    if (invented.length > 0) throw new Error(`reported, and neither written nor pinned: pages ${invented.join(' ')}`);
    if (unreported.length > 0) throw new Error(`pinned and not reported: pages ${unreported.join(' ')}`);
    this.#written.clear();
    this.#wasPinned.clear();
    for (const page of this.#pinned.values()) this.#wasPinned.add(page);
  }

  /** Up to three pages somewhere in a mapping; undefined if there is no mapping. */
  #somewhere(): { iova: number; byteLength: number } | undefined {
    if (this.#mapped.length === 0) return undefined;
    const { mapping } = this.#random.pick(this.#mapped);
    const offset = this.#random.integer(mapping.byteLength);
    const byteLength = 1 + this.#random.integer(Math.min(2 * PAGE, mapping.byteLength - offset));
    return { iova: mapping.iova + offset, byteLength };
  }

  /** Notes that the pages of these bytes were written. */
  #note(iova: number, byteLength: number): void {
    if (!this.#tracking) return;
    const first = Math.floor(iova / PAGE);
    const last = Math.floor((iova + byteLength - 1) / PAGE);
    for (const page of range(first, last - first + 1)) this.#written.add(this.#ramPage(page));
  }

  #ramPage(iovaPage: number): number {
    const { mapping, firstPage } = this.#mapped.find(
      ({ mapping: { iova, byteLength } }) => iova <= iovaPage * PAGE && iovaPage * PAGE < iova + byteLength,
    ) as Mapped;
    const page = firstPage + iovaPage - mapping.iova / PAGE;
    if (page >= this.#pages) throw new RangeError(`page ${page} is not in RAM`);
    return page;
  }

  #bytes(byteLength: number): Uint8Array {
    return new Uint8Array(byteLength).fill(++this.#stamp);
  }

  #expect(what: string, result: number): void {
    if (result !== 0) throw new Error(`${what} gave ${result}`);
  }
}

function range(first: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => first + i);
}

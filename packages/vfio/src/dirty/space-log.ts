import { setImmediate } from 'node:timers/promises';
import { DirtyBitmap, DirtyBitmaps, type GuestMemory } from '@godwit/core';
import type { DmaMapping, DmaSpace, UnmapListener } from '../dma-space.js';
import { MappingTranslation } from './iova-translation.js';

/** Reads the dirty log of a mapping for one tracker. */
export interface MappingReader {
  /** Bytes per bit. */
  readonly pageSize: number;
  /**
   * Sets the bits of the mapping's written pages in a bitmap that is all clean, and clears them in the log. Resolves with 0, or
   * minus errno.
   */
  read(mapping: DmaMapping, bitmap: DirtyBitmap): Promise<number>;
  /** Does the same in one call on the event loop. */
  readNow(mapping: DmaMapping, bitmap: DirtyBitmap): number;
  /** The error for a result below 0. */
  error(mapping: DmaMapping, result: number): Error;
  /**
   * Whether the log covers this mapping; without this method it covers all. A mapping that it does not cover is dirty at every
   * harvest.
   */
  covers?(mapping: DmaMapping): boolean;
}

/** The result of a harvest. */
export interface SpaceHarvest {
  /** Pages of the mappings, in the log's page size. */
  readonly mappedPages: number;
  /** Of these, the dirty ones. */
  readonly dirtyPages: number;
  /** Whether all of a mapping was reported because its written pages are not known. */
  readonly guessed: boolean;
  /** The error of the first read that failed; all pages of its mapping are reported. */
  readonly failure: unknown;
}

/**
 * With more mappings than this, small ones are read on the event loop: handing a call to a pool thread takes 15 us, the call
 * itself less than 1.
 */
const MANY_MAPPINGS = 256;
/** The largest small mapping: the kernel copies and clears this many bits in about a microsecond. */
const SMALL_MAPPING_PAGES = 4096;
/** Reads on the event loop between two readings of the clock. */
const READS_PER_LOOK = 16;
const LONGEST_SLICE_MS = 1;
/**
 * If reads take longer than `LONGEST_READ_MS` at several readings of the clock in a row (Linux 6.12 searches for a mapping from
 * the first one on), the rest is read on pool threads.
 */
const LONGEST_READ_MS = 0.05;
const SLOW_LOOKS = 8;
/** The number of bitmaps that are kept for reuse, one for each size of mappings. */
const KEPT_BITMAPS = 64;

/**
 * The dirty log of an address space, mapping by mapping, while mappings come and go.
 *
 * `departed` adds the dirty pages of a mapping that goes, which are in the next harvest. A harvest waits for changes that were
 * requested before it, waits at its end for unmaps that overtook its reads, and reports all of a mapping and of a later one that
 * took its addresses while it was read.
 */
export class SpaceLog {
  readonly #space: DmaSpace;
  readonly #memory: GuestMemory;
  readonly #reader: MappingReader;
  readonly #bitmaps = new Map<number, DirtyBitmap>();
  /** Pages of RAM that were written through mappings that are gone since the last harvest; null when none is. */
  #departed: { readonly pages: DirtyBitmaps; guessed: boolean } | null = null;
  #unlisten: (() => void) | null = null;

  constructor(space: DmaSpace, memory: GuestMemory, reader: MappingReader) {
    this.#space = space;
    this.#memory = memory;
    this.#reader = reader;
  }

  get running(): boolean {
    return this.#unlisten !== null;
  }

  /** Turns the log on, between two changes of the address space. When `turnOn` rejects, it is off. */
  start(listener: UnmapListener, turnOn: () => Promise<void>): Promise<void> {
    return this.#space.between(async () => {
      await turnOn();
      this.#departed = null;
      this.#unlisten = this.#space.listen(listener);
    });
  }

  /** Turns it off, between two changes. Idempotent. */
  stop(turnOff: () => Promise<void>): Promise<void> {
    return this.#space.between(async () => {
      if (this.#unlisten === null) return;
      this.#unlisten();
      this.#unlisten = null;
      this.#departed = null;
      this.#bitmaps.clear();
      await turnOff();
    });
  }

  /**
   * Notes that a mapping is gone. `dirty` has its pages that were written since the last harvest; with null all of it counts as
   * dirty.
   */
  departed(mapping: DmaMapping, dirty: DirtyBitmap | null): void {
    // The bits are translated to pages of RAM at once, since a guest may unmap a hundred thousand times between two harvests.
    this.#departed ??= { pages: new DirtyBitmaps(this.#memory), guessed: false };
    const translation = this.translation(mapping);
    if (dirty !== null) translation.report(dirty, this.#departed.pages);
    else {
      translation.reportAll(this.#departed.pages);
      this.#departed.guessed = true;
    }
  }

  async harvest(into: DirtyBitmaps): Promise<SpaceHarvest> {
    const pass = new HarvestPass(this.#space, this.#reader, into, (mapping) => this.translation(mapping));
    const stuck = await this.#space.changesDone();
    if (stuck !== null) pass.reportAll(stuck);
    await this.#readAll(pass);
    if (pass.overtaken.length > 0) {
      // The bits of these mappings come with their unmaps; where those are not waited for, nobody has them yet.
      const late = stuck ?? (await this.#space.changesDone());
      if (late !== null) for (const mapping of pass.overtaken) pass.reportAll(mapping);
    }
    if (this.#departed !== null) {
      into.or(this.#departed.pages);
      pass.guessed ||= this.#departed.guessed;
      this.#departed = null;
    }
    return pass;
  }

  translation(mapping: DmaMapping): MappingTranslation {
    return new MappingTranslation(mapping, this.#memory, this.#reader.pageSize);
  }

  async #readAll(pass: HarvestPass): Promise<void> {
    const { mappings } = this.#space;
    let onLoop = mappings.length > MANY_MAPPINGS;
    let sliceBegan = performance.now();
    let lookedAt = sliceBegan;
    let reads = 0;
    let slowLooks = 0;
    for (const mapping of mappings) {
      const pages = Math.ceil(mapping.byteLength / this.#reader.pageSize);
      const bitmap = this.#bitmapOf(pages);
      // While this process neither maps nor unmaps, it does not hold the lock that a read takes.
      if (onLoop && pages <= SMALL_MAPPING_PAGES && this.#space.idle) {
        pass.readNow(mapping, bitmap);
        if (++reads % READS_PER_LOOK !== 0) continue;
        const now = performance.now();
        slowLooks = now - lookedAt < READS_PER_LOOK * LONGEST_READ_MS ? 0 : slowLooks + 1;
        onLoop = slowLooks < SLOW_LOOKS;
        lookedAt = now;
        if (now - sliceBegan < LONGEST_SLICE_MS) continue;
        await setImmediate();
        sliceBegan = performance.now();
        lookedAt = sliceBegan;
      } else await pass.read(mapping, bitmap);
    }
  }

  #bitmapOf(pages: number): DirtyBitmap {
    const kept = this.#bitmaps.get(pages);
    if (kept !== undefined) return kept;
    if (this.#bitmaps.size >= KEPT_BITMAPS) this.#bitmaps.clear();
    const made = new DirtyBitmap(pages);
    this.#bitmaps.set(pages, made);
    return made;
  }
}

/** One harvest under way. */
class HarvestPass implements SpaceHarvest {
  mappedPages = 0;
  dirtyPages = 0;
  guessed = false;
  failure: unknown;
  /** Mappings whose unmap began before their bits were read. */
  readonly overtaken: DmaMapping[] = [];
  readonly #space: DmaSpace;
  readonly #reader: MappingReader;
  readonly #into: DirtyBitmaps;
  readonly #translation: (mapping: DmaMapping) => MappingTranslation;

  constructor(
    space: DmaSpace,
    reader: MappingReader,
    into: DirtyBitmaps,
    translation: (mapping: DmaMapping) => MappingTranslation,
  ) {
    this.#space = space;
    this.#reader = reader;
    this.#into = into;
    this.#translation = translation;
  }

  reportAll(mapping: DmaMapping): void {
    this.guessed = true;
    this.#translation(mapping).reportAll(this.#into);
  }

  async read(mapping: DmaMapping, bitmap: DirtyBitmap): Promise<void> {
    if (!this.#begins(mapping, bitmap)) return;
    const read = this.#space.reading(mapping);
    let result: number | null = null;
    try {
      bitmap.clearAll();
      result = await this.#reader.read(mapping, bitmap);
    } catch (error) {
      this.failure ??= error;
    }
    // An unmap that began meanwhile may have come first, and then has the bits.
    if (!this.#space.isMapped(mapping)) this.overtaken.push(mapping);
    const others = read.end();
    for (const other of others) this.reportAll(other);
    this.#found(mapping, bitmap, others.length > 0 ? null : result);
  }

  readNow(mapping: DmaMapping, bitmap: DirtyBitmap): void {
    if (!this.#begins(mapping, bitmap)) return;
    let result: number | null = null;
    try {
      bitmap.clearAll();
      result = this.#reader.readNow(mapping, bitmap);
    } catch (error) {
      this.failure ??= error;
    }
    this.#found(mapping, bitmap, result);
  }

  #begins(mapping: DmaMapping, { pageCount }: DirtyBitmap): boolean {
    if (!this.#space.isMapped(mapping)) {
      this.overtaken.push(mapping);
      return false;
    }
    this.mappedPages += pageCount;
    if (this.#reader.covers?.(mapping) !== false) return true;
    this.#found(mapping, null, null);
    return false;
  }

  /** @param result of the call; null when it is not known to which mapping the bits belong */
  #found(mapping: DmaMapping, bitmap: DirtyBitmap | null, result: number | null): void {
    if (result !== null && result < 0) this.failure ??= this.#reader.error(mapping, result);
    if (bitmap === null || result === null || result < 0) {
      this.dirtyPages += Math.ceil(mapping.byteLength / this.#reader.pageSize);
      this.reportAll(mapping);
      return;
    }
    // The kernel may set bits past the last page.
    bitmap.maskTail();
    const dirty = bitmap.count();
    if (dirty === 0) return;
    this.dirtyPages += dirty;
    this.#translation(mapping).report(bitmap, this.#into);
  }
}

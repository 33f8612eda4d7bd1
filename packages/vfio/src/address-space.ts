import { type DirtyBitmap, GodwitError } from '@godwit/core';
import type { DmaMapping, DmaSpace, MappingRead, UnmapListener } from './dma-space.js';

/**
 * The longest time, in milliseconds, that a harvest waits for a map or an unmap: unpinning a TiB takes seconds, and a
 * harvest is part of the downtime.
 */
export const LONGEST_WAIT_MS = 1000;

/** The result of an unmap. */
export interface Unmapped {
  /** 0, or minus errno; after an error it is not known which part of the mapping is gone. */
  readonly result: number;
  /** Null when it is not known which pages were written. */
  readonly dirty: DirtyBitmap | null;
  /** Bytes that the kernel says were unmapped. */
  readonly byteLength: number;
}

/** The mappings of an address space, the order of their changes, and the listeners that are told when a mapping goes. */
export class AddressSpace implements DmaSpace {
  /** The mappings by IOVA; they do not overlap. */
  readonly #mapped = new Map<number, DmaMapping>();
  readonly #listeners = new Set<UnmapListener>();
  readonly #reads = new Set<{ readonly mapping: DmaMapping; readonly others: DmaMapping[] }>();
  #snapshot: readonly DmaMapping[] | null = null;
  /** Settles when all changes that were asked for are done. Never rejects. */
  #last: Promise<void> = Promise.resolve();
  #asked = 0;
  /** The mapping that is being made or undone. */
  #changing: { readonly mapping: DmaMapping; readonly unmap: boolean } | null = null;

  constructor(mappings: readonly DmaMapping[] = []) {
    for (const mapping of mappings) this.#mapped.set(mapping.iova, mapping);
  }

  get mappings(): readonly DmaMapping[] {
    this.#snapshot ??= [...this.#mapped.values()];
    return this.#snapshot;
  }

  get idle(): boolean {
    return this.#asked === 0;
  }

  isMapped(mapping: DmaMapping): boolean {
    const changing = this.#changing;
    const going = changing?.unmap === true && changing.mapping === mapping;
    return !going && this.#mapped.get(mapping.iova) === mapping;
  }

  listen(listener: UnmapListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  between<T>(step: () => Promise<T>): Promise<T> {
    this.#asked++;
    const result = this.#last.then(step);
    this.#last = result.then(
      () => this.#done(),
      () => this.#done(),
    );
    return result;
  }

  async changesDone(): Promise<DmaMapping | null> {
    if (this.idle) return null;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<true>((resolve) => {
      timer = setTimeout(() => resolve(true), LONGEST_WAIT_MS);
    });
    const tooLate = await Promise.race([this.#last, late]);
    clearTimeout(timer);
    return tooLate === true ? (this.#changing?.mapping ?? null) : null;
  }

  reading(mapping: DmaMapping): MappingRead {
    const read = { mapping, others: [] as DmaMapping[] };
    this.#reads.add(read);
    return {
      end: () => {
        this.#reads.delete(read);
        return read.others;
      },
    };
  }

  /**
   * Makes a mapping in its turn.
   *
   * @param call makes it; when it rejects, nothing is mapped
   */
  map(mapping: DmaMapping, call: () => Promise<void>): Promise<DmaMapping> {
    return this.between(async () => {
      this.#changing = { mapping, unmap: false };
      // From here on a late read of an earlier mapping at these addresses may find bits of the new one.
      for (const read of this.#reads) if (overlap(read.mapping, mapping)) read.others.push(mapping);
      try {
        await call();
        this.#mapped.set(mapping.iova, mapping);
        this.#snapshot = null;
        return mapping;
      } finally {
        this.#changing = null;
      }
    });
  }

  /**
   * Undoes a mapping in its turn, and tells the listeners before the next change. A mapping whose call failed stays on the
   * list, and all of it counts as dirty.
   *
   * @param which the mapping itself, or its address and size
   * @param call unmaps it
   * @returns the result of the call, which may have failed
   * @throws GodwitError GODWIT_INVALID_ARGUMENT when no mapping has this address and size
   */
  unmap(
    which: Pick<DmaMapping, 'iova' | 'byteLength'>,
    stopped: boolean,
    call: (mapping: DmaMapping) => Promise<Unmapped>,
  ): Promise<{ readonly mapping: DmaMapping; readonly result: number }> {
    return this.between(async () => {
      const mapping = this.#find(which);
      this.#changing = { mapping, unmap: true };
      try {
        for (const listener of this.#listeners) await listener.unmapping?.(mapping, stopped);
        const { result, byteLength, ...unmapped } = await call(mapping);
        // If the kernel unmapped less than was asked, a part of the mapping was gone before, and its bits with it.
        const whole = result >= 0 && byteLength >= mapping.byteLength;
        const dirty = whole ? unmapped.dirty : null;
        if (result >= 0) {
          this.#mapped.delete(mapping.iova);
          this.#snapshot = null;
        }
        for (const listener of this.#listeners) await listener.unmapped?.(mapping, dirty, whole);
        return { mapping, result };
      } finally {
        this.#changing = null;
      }
    });
  }

  #find({ iova, byteLength }: Pick<DmaMapping, 'iova' | 'byteLength'>): DmaMapping {
    const found = this.#mapped.get(iova);
    if (found?.byteLength === byteLength) return found;
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `${byteLength} bytes at IOVA 0x${iova.toString(16)} are not one of the ${this.#mapped.size} mappings; mappings go whole`,
    );
  }

  #done(): void {
    this.#asked--;
  }
}

function overlap(a: DmaMapping, b: DmaMapping): boolean {
  return a.iova < b.iova + b.byteLength && b.iova < a.iova + a.byteLength;
}

/**
 * Throws GODWIT_INVALID_ARGUMENT unless the mapping has whole pages at addresses that a JavaScript number represents
 * exactly.
 */
export function checkMapping({ iova, byteLength, guestPhysicalAddress }: DmaMapping, pageSize: number): void {
  const whole = (value: number) => Number.isSafeInteger(value) && value >= 0 && value % pageSize === 0;
  const ends = Number.isSafeInteger(iova + byteLength) && Number.isSafeInteger(guestPhysicalAddress + byteLength);
  if (whole(iova) && whole(byteLength) && whole(guestPhysicalAddress) && byteLength > 0 && ends) return;
  throw new GodwitError(
    'GODWIT_INVALID_ARGUMENT',
    `${byteLength} bytes at IOVA ${iova}, guest-physical ${guestPhysicalAddress}: not whole pages of ${pageSize} bytes below 2^53`,
  );
}

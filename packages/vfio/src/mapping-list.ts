import { type DirtyBitmap, GodwitError } from '@godwit/core';
import type { DmaMapping, DmaSpace, UnmapListener } from './dma-space.js';

/** The mappings of an address space, and who wants to know when one goes. */
export class MappingList implements DmaSpace {
  readonly #listeners = new Set<UnmapListener>();
  #mappings: readonly DmaMapping[];

  constructor(mappings: readonly DmaMapping[] = []) {
    this.#mappings = mappings;
  }

  get mappings(): readonly DmaMapping[] {
    return this.#mappings;
  }

  listen(listener: UnmapListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  add(mapping: DmaMapping): void {
    this.#mappings = [...this.#mappings, mapping];
  }

  /** The mapping itself, by identity or by its address and size. Throws GODWIT_INVALID_ARGUMENT when there is none. */
  find({ iova, byteLength }: Pick<DmaMapping, 'iova' | 'byteLength'>): DmaMapping {
    const found = this.#mappings.find((mapping) => mapping.iova === iova && mapping.byteLength === byteLength);
    if (found !== undefined) return found;
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `${byteLength} bytes at IOVA 0x${iova.toString(16)} are not one of the ${this.#mappings.length} mappings; mappings go whole`,
    );
  }

  async unmapping(mapping: DmaMapping): Promise<void> {
    for (const listener of this.#listeners) await listener.unmapping?.(mapping);
  }

  unmapped(mapping: DmaMapping, dirty: DirtyBitmap | null): void {
    this.#mappings = this.#mappings.filter((other) => other !== mapping);
    this.lost(mapping, dirty);
  }

  /** Tells the listeners, without taking the mapping off the list: it may still be there. */
  lost(mapping: DmaMapping, dirty: DirtyBitmap | null): void {
    for (const listener of this.#listeners) listener.unmapped?.(mapping, dirty);
  }
}

/** Throws GODWIT_INVALID_ARGUMENT unless these are whole pages at an address that a JavaScript number has exactly. */
export function checkMapping({ iova, byteLength, guestPhysicalAddress }: DmaMapping, pageSize: number): void {
  const whole = (value: number) => Number.isSafeInteger(value) && value >= 0 && value % pageSize === 0;
  const ends = Number.isSafeInteger(iova + byteLength) && Number.isSafeInteger(guestPhysicalAddress + byteLength);
  if (whole(iova) && whole(byteLength) && whole(guestPhysicalAddress) && byteLength > 0 && ends) return;
  throw new GodwitError(
    'GODWIT_INVALID_ARGUMENT',
    `${byteLength} bytes at IOVA ${iova}, guest-physical ${guestPhysicalAddress}: not whole pages of ${pageSize} bytes below 2^53`,
  );
}

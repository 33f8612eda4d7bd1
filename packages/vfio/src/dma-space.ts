import type { DirtyBitmap } from '@godwit/core';

/** Guest memory that devices can reach: `byteLength` bytes from `iova` on. Addresses and sizes are whole pages. */
export interface DmaMapping {
  /** What a device puts on the bus: an address in the IOMMU's space. Below 2^53. */
  readonly iova: number;
  readonly byteLength: number;
  /** Where these bytes are in the guest's own address space. */
  readonly guestPhysicalAddress: number;
}

/** What a tracker hears before and after a mapping goes. The next change of the address space waits until it has resolved. */
export interface UnmapListener {
  /**
   * The mapping is about to go.
   *
   * @param stopped no device can write through it until it is gone: what is read of its log now is all that there is
   */
  unmapping?(mapping: DmaMapping, stopped: boolean): Promise<void>;
  /**
   * It is gone, and its addresses are not in use again yet.
   *
   * @param dirty the pages of it that were written since the last harvest, in the kernel's page size; null when the kernel does not say
   * @param whole the kernel has unmapped all of it: false when the call failed, or when some of it was gone already, and what was
   * written there with it
   */
  unmapped?(mapping: DmaMapping, dirty: DirtyBitmap | null, whole: boolean): Promise<void> | void;
}

/** The read of one mapping's log, from before the call until its result is here. */
export interface MappingRead {
  /**
   * The call is over.
   *
   * @returns mappings that were made at addresses of this one meanwhile: the bits that were read may be theirs
   */
  end(): readonly DmaMapping[];
}

/**
 * An IOMMU address space, whoever makes it: a type1 container or an I/O address space of iommufd.
 *
 * Maps and unmaps have one order, in which they were asked for, and are made one at a time. Reads of a dirty log are not
 * held up by them and do not hold them up: a read that an unmap overtakes is found out (`reading`), so that no bit dies with
 * its mapping and none is credited to the next one.
 */
export interface DmaSpace {
  /** What is mapped now. A new array after each change. */
  readonly mappings: readonly DmaMapping[];
  /** No map or unmap has been asked for that is not done. */
  readonly idle: boolean;
  /** Whether this is mapped, and its unmap has not begun. */
  isMapped(mapping: DmaMapping): boolean;
  /** Returns the function that ends it. */
  listen(listener: UnmapListener): () => void;
  /** Runs `step` between two changes: after all that were asked for before, and before all that are asked for later. */
  between<T>(step: () => Promise<T>): Promise<T>;
  /**
   * Resolves when all changes that were asked for by now are done; or after a second (`LONGEST_WAIT_MS`) with the mapping that
   * is being made or undone still, whose memory then counts as dirty.
   */
  changesDone(): Promise<DmaMapping | null>;
  /** To be called right before the log of a mapping is read. */
  reading(mapping: DmaMapping): MappingRead;
}

import type { DirtyBitmap } from '@godwit/core';

/** Guest memory that devices can reach: `byteLength` bytes from `iova` on. Addresses and sizes are whole pages. */
export interface DmaMapping {
  /** The address that a device uses: an address in the IOMMU's space. Below 2^53. */
  readonly iova: number;
  readonly byteLength: number;
  /** The address of these bytes in the guest's own address space. */
  readonly guestPhysicalAddress: number;
}

/**
 * Callbacks of a tracker before and after a mapping goes. The next change of the address space waits until their promises have
 * resolved.
 */
export interface UnmapListener {
  /**
   * The mapping is about to go.
   *
   * @param stopped no device can write through it until it is gone: a read of its log now is complete
   */
  unmapping?(mapping: DmaMapping, stopped: boolean): Promise<void>;
  /**
   * The mapping is gone, and its addresses are not in use again yet.
   *
   * @param dirty the pages of it that were written since the last harvest, in the kernel's page size; null when the kernel does not
   * report them
   * @param whole whether the kernel has unmapped all of it: false when the call failed, or when a part was gone already, with the dirty
   * bits of that part
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
 * An IOMMU address space: a type1 container or an I/O address space of iommufd.
 *
 * Maps and unmaps are made one at a time, in the order of the calls. They and reads of a dirty log do not wait for each other: a read
 * that an unmap overtakes is noticed (`reading`), so that no bit is lost with its mapping and none is taken for one of the next
 * mapping.
 */
export interface DmaSpace {
  /** The present mappings: a new array after each change. */
  readonly mappings: readonly DmaMapping[];
  /** Whether every map and unmap that was requested is done. */
  readonly idle: boolean;
  /** Whether this mapping exists and its unmap has not begun. */
  isMapped(mapping: DmaMapping): boolean;
  /** Adds a listener; returns the function that removes it. */
  listen(listener: UnmapListener): () => void;
  /** Runs `step` between two changes: after all that were requested before, and before all that are requested later. */
  between<T>(step: () => Promise<T>): Promise<T>;
  /**
   * Resolves with null when all changes that were requested so far are done, or after a second (`LONGEST_WAIT_MS`) with the mapping
   * that is still being made or undone, whose memory then counts as dirty.
   */
  changesDone(): Promise<DmaMapping | null>;
  /** To be called right before the log of a mapping is read. */
  reading(mapping: DmaMapping): MappingRead;
}

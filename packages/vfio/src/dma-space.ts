import type { DirtyBitmap } from '@godwit/core';

/** Guest memory that devices can reach: `byteLength` bytes from `iova` on. Addresses and sizes are whole pages. */
export interface DmaMapping {
  /** What a device puts on the bus: an address in the IOMMU's space. Below 2^53. */
  readonly iova: number;
  readonly byteLength: number;
  /** Where these bytes are in the guest's own address space. */
  readonly guestPhysicalAddress: number;
}

/** What a tracker hears before and after a mapping goes. */
export interface UnmapListener {
  /** The mapping is about to go: whoever keeps its own log of it reads it now, or remembers it. */
  unmapping?(mapping: DmaMapping): Promise<void>;
  /**
   * It is gone. `dirty` has the pages of it that were written since the last harvest, in the kernel's page size; null when
   * that is not known, and every page of it counts as dirty.
   */
  unmapped?(mapping: DmaMapping, dirty: DirtyBitmap | null): void;
}

/** An IOMMU address space, whoever makes it: a type1 container or an I/O address space of iommufd. */
export interface DmaSpace {
  /** What is mapped now. A new array after each change. */
  readonly mappings: readonly DmaMapping[];
  /** Returns the function that ends it. */
  listen(listener: UnmapListener): () => void;
}

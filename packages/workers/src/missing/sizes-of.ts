import type { GuestMemory } from '@godwit/core/pages';
import type { ServedMemoryParts } from './missing-messages.js';

/** The blocks of memory that is served, for checks of page numbers; none of it can be seen. */
export function sizesOf({ pageSize, blocks }: ServedMemoryParts): GuestMemory {
  return {
    pageSize,
    blocks: blocks.map(({ byteLength }, index) => ({
      id: `${index}`,
      guestPhysicalAddress: 0,
      byteLength,
      view: () => {
        throw new RangeError('this is only the size of the memory');
      },
    })),
  };
}

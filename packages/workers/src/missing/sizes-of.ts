import type { GuestMemory } from '@godwit/core/pages';
import type { ServedMemoryParts } from './missing-messages.js';

/** The sizes of the blocks of served memory, for checks of page numbers; the blocks have no views. */
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

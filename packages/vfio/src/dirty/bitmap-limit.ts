import type { DmaMapping } from '../dma-space.js';
import type { DirtyTrackingSupport } from '../type1/iommu-info.js';
import { largestMapping } from '../type1/mapping-pieces.js';

/** Why the log of these mappings cannot be read: one is larger than the kernel can give a bitmap for. `undefined` when all can be. */
export function bitmapLimitBlocker(mappings: readonly DmaMapping[], support: DirtyTrackingSupport): string | undefined {
  const most = largestMapping(support);
  const large = mappings.find(({ byteLength }) => byteLength > most);
  if (large === undefined) return undefined;
  return (
    `the mapping of ${large.byteLength} bytes at IOVA 0x${large.iova.toString(16)} is larger than the kernel's dirty bitmaps can be ` +
    `(${support.maximumBitmapBytes} bytes, for ${most}): map the memory in smaller pieces (mapMemory does)`
  );
}

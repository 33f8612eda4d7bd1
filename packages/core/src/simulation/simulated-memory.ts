import { GodwitError } from '../errors.js';
import type { GuestMemory, RamBlock } from '../memory/guest-memory.js';
import type { MemoryWindows } from '../memory/memory-windows.js';
import type { PageRun } from '../memory/page-run.js';

/** Memory without a byte behind it: one block, whose first `populatedBytes` count as populated. */
export function simulatedMemory(pageSize: number, byteLength: number, populatedBytes: number): GuestMemory {
  const populatedPages = populatedBytes / pageSize;
  // The claim views one byte of a block, to recognise memory that two VMs have in common.
  const byte = new Uint8Array(new ArrayBuffer(1));
  const block: RamBlock = {
    id: 'ram',
    guestPhysicalAddress: 0,
    byteLength,
    view(offset, length) {
      if (length === 1) return byte;
      throw new GodwitError('GODWIT_INTERNAL', `simulated memory has no bytes; ${length} at ${offset} were asked for`);
    },
    discard: () => true,
  };
  if (populatedBytes < byteLength) {
    block.populated = function* (
      { firstPage, pageCount }: PageRun = { firstPage: 0, pageCount: byteLength / pageSize },
    ) {
      const end = Math.min(firstPage + pageCount, populatedPages);
      if (end > firstPage) yield { firstPage, pageCount: end - firstPage };
    };
  }
  return { pageSize, blocks: [block] };
}

/**
 * Windows of a simulated memory for code that uses only the lengths of views: all views show the same zeros, which are never
 * read.
 */
export function countedWindows(memory: GuestMemory): Pick<MemoryWindows, 'memory' | 'appendViews'> {
  let zeros = new Uint8Array(0);
  return {
    memory,
    appendViews(into, _block, _firstPage, pageCount) {
      const byteLength = pageCount * memory.pageSize;
      if (zeros.byteLength < byteLength) zeros = new Uint8Array(byteLength);
      into.push(zeros.subarray(0, byteLength));
    },
  };
}

import { GodwitError, quoted } from '../errors.js';
import { type GuestMemory, RAM_WINDOW_BYTES } from './guest-memory.js';

/** Limits of the page size: pages are scanned and compared in fixed steps, and a re-armed chunk of 64 pages must be in one window. */
const SMALLEST_PAGE = 256;
const LARGEST_PAGE = RAM_WINDOW_BYTES / 64;

/**
 * Throws `GODWIT_INVALID_ARGUMENT` unless the page size is a power of two from 256 bytes to 16 MiB, and the blocks are of whole pages,
 * do not overlap and have different names.
 */
export function checkGuestMemory(memory: GuestMemory): void {
  const { pageSize, blocks } = memory;
  if (!Number.isInteger(Math.log2(pageSize)) || pageSize < SMALLEST_PAGE || pageSize > LARGEST_PAGE) {
    throw invalid(
      `the page size must be a power of two from ${SMALLEST_PAGE} to ${LARGEST_PAGE} bytes, got ${quoted(pageSize)}`,
    );
  }
  const names = new Set<string>();
  for (const { id, guestPhysicalAddress, byteLength } of blocks) {
    if (names.has(id)) throw invalid(`two RAM blocks are called "${id}"`);
    names.add(id);
    if (!Number.isSafeInteger(byteLength) || byteLength <= 0 || byteLength % pageSize !== 0) {
      throw invalid(`RAM block "${id}" has ${byteLength} bytes: not a whole number of pages of ${pageSize} bytes`);
    }
    if (!Number.isSafeInteger(guestPhysicalAddress + byteLength) || guestPhysicalAddress < 0) {
      throw invalid(`RAM block "${id}" cannot be at guest-physical address ${guestPhysicalAddress}`);
    }
  }
  const ascending = [...blocks].sort((a, b) => a.guestPhysicalAddress - b.guestPhysicalAddress);
  for (const [index, block] of ascending.entries()) {
    const before = ascending[index - 1];
    if (before !== undefined && before.guestPhysicalAddress + before.byteLength > block.guestPhysicalAddress) {
      throw invalid(`the RAM blocks "${before.id}" and "${block.id}" overlap`);
    }
  }
}

function invalid(message: string): GodwitError {
  return new GodwitError('GODWIT_INVALID_ARGUMENT', message);
}

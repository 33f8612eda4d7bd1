import { GodwitError, quoted } from '@godwit/core/errors';
import { checkOptions } from '@godwit/core/pages';
import { HOST_PAGE_SIZE } from '../libc/index.js';

/** Where a RAM block lies and how large it is; all in bytes. */
export interface BlockPlacement {
  readonly id: string;
  readonly guestPhysicalAddress: number;
  readonly byteLength: number;
  /** Source and destination map the same memory: see `RamBlock.shared`. It can be set later, too (`MappedRamBlock.shared`). */
  readonly shared?: true | undefined;
  /** The guest cannot write it: see `RamBlock.readOnly`. */
  readonly readOnly?: true | undefined;
}

/** The fields of `BlockPlacement`, for `checkBlockFields`. */
export const PLACEMENT_FIELDS: Readonly<Record<keyof BlockPlacement, true>> = {
  id: true,
  guestPhysicalAddress: true,
  byteLength: true,
  shared: true,
  readOnly: true,
};

/**
 * Refuses fields of RAM blocks that do not exist. A block of another guest memory, which has a `view` method, may be given for its layout.
 *
 * @param what whose blocks they are, as its user wrote it: `createGuestMemory`
 * @throws GodwitError GODWIT_INVALID_ARGUMENT, with a suggestion where a known field is near; for `blocks` that are no array, too
 */
export function checkBlockFields<B extends BlockPlacement>(
  what: string,
  blocks: readonly B[],
  known: Readonly<Record<keyof Required<B>, true>>,
): void {
  if (!Array.isArray(blocks)) throw invalid(`${what}: blocks must be an array of RAM blocks, got ${quoted(blocks)}`);
  for (const [i, block] of blocks.entries()) {
    if (typeof block === 'object' && block !== null && 'view' in block) continue;
    checkOptions<B>(`${what}: blocks[${i}]`, block, known);
  }
}

/**
 * Checks a guest's memory layout before anything is mapped.
 *
 * @throws GodwitError GODWIT_INVALID_ARGUMENT: a page size that is no power of two or below the host's, no blocks, ids
 * that are empty or used twice, addresses or lengths that are negative, unaligned or beyond 2^53, blocks that overlap
 */
export function checkBlockLayout(pageSize: number, blocks: readonly BlockPlacement[]): void {
  if (!Number.isSafeInteger(pageSize) || !isPowerOfTwo(pageSize) || pageSize < HOST_PAGE_SIZE) {
    throw invalid(`the page size is a power of two and at least the host's ${HOST_PAGE_SIZE}, got ${pageSize}`);
  }
  if (blocks.length === 0) throw invalid('a guest has at least one RAM block');
  const ids = new Set<string>();
  for (const block of blocks) {
    const { id, guestPhysicalAddress: address, byteLength } = block;
    if (id === '') throw invalid('a RAM block needs an id');
    if (ids.has(id)) throw invalid(`two RAM blocks are called ${id}`);
    ids.add(id);
    if (!isAligned(byteLength, pageSize) || byteLength === 0) {
      throw invalid(`the length of RAM block ${id} is a multiple of ${pageSize} above zero, got ${byteLength}`);
    }
    if (!isAligned(address, pageSize) || !Number.isSafeInteger(address + byteLength)) {
      throw invalid(`the guest-physical address of RAM block ${id} is a multiple of ${pageSize}, got ${address}`);
    }
  }
  const ascending = [...blocks].sort((a, b) => a.guestPhysicalAddress - b.guestPhysicalAddress);
  ascending.forEach((block, i) => {
    const next = ascending[i + 1];
    if (next === undefined || block.guestPhysicalAddress + block.byteLength <= next.guestPhysicalAddress) return;
    throw invalid(
      `RAM block ${block.id} (${block.byteLength} bytes at ${block.guestPhysicalAddress}) overlaps ` +
        `${next.id} at ${next.guestPhysicalAddress}`,
    );
  });
}

function isAligned(value: number, unit: number): boolean {
  return Number.isSafeInteger(value) && value >= 0 && value % unit === 0;
}

function isPowerOfTwo(value: number): boolean {
  return value > 0 && Number.isInteger(Math.log2(value));
}

function invalid(message: string): GodwitError {
  return new GodwitError('GODWIT_INVALID_ARGUMENT', message);
}

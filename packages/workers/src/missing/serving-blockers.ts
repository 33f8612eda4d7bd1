import type { GuestMemory } from '@godwit/core';
import { type AddressRange, type MappedGuestMemory, SharedUserfaultfd, Userfaultfd } from '@godwit/linux';
import { HOST_PAGE_SIZE, pinnedBytes, Uffd } from '@godwit/linux/unstable';

/** The memory as memory mapped by `@godwit/linux`; undefined for memory of another kind. */
export function servable(memory: GuestMemory): MappedGuestMemory | undefined {
  const blocks = memory.blocks as Partial<MappedGuestMemory['blocks'][number]>[];
  const known = blocks.every(({ hostAddress, pins }) => hostAddress !== undefined && pins !== undefined);
  return known && 'missing' in Object.getPrototypeOf(memory) ? (memory as MappedGuestMemory) : undefined;
}

/** The address ranges at which the blocks are mapped. */
export function rangesOf({ blocks }: MappedGuestMemory): AddressRange[] {
  return blocks.map(({ hostAddress: address, byteLength }) => ({ address, byteLength }));
}

/** The reasons why the pages of this memory cannot come while a guest runs in it, one sentence each. */
export function servingBlockers(memory: GuestMemory): string[] {
  const reasons = memoryBlockers(memory);
  const mapped = servable(memory);
  if (mapped === undefined) return reasons;
  try {
    if ((Userfaultfd.available() & Uffd.UFFD_FEATURE_POISON) === 0) {
      reasons.push(
        'the kernel cannot mark pages that will never come (UFFDIO_POISON: Linux 6.6), and would give zeros for them',
      );
    }
  } catch (error) {
    reasons.push(`this host serves no page faults: ${error instanceof Error ? error.message : String(error)}`);
  }
  return reasons.length > 0 ? reasons : rangeBlockers(mapped);
}

/** The reasons of `servingBlockers` that are in the memory itself. */
export function memoryBlockers(memory: GuestMemory): string[] {
  const mapped = servable(memory);
  if (mapped === undefined) {
    return [
      'its memory is not of createGuestMemory or attachGuestMemory of @godwit/linux, which tells where it is mapped',
    ];
  }
  const reasons: string[] = [];
  if (mapped.missing !== undefined) {
    reasons.push('pages of it are missing already, or are marked as pages that never come: make new memory');
  }
  for (const block of mapped.blocks) {
    const { id, fd, anonymous, shared, pinned, filePageSize = 0 } = block;
    if (shared === true) reasons.push(`RAM block "${id}" is shared with the source: its pages are there already`);
    if (fd === null && !anonymous) {
      reasons.push(`RAM block "${id}" was attached without its memory file, so that its contents cannot be given up`);
    }
    if (pinned) {
      reasons.push(`RAM block "${id}" has pages that are pinned for a device, whose access cannot wait for a page`);
    }
    if (filePageSize > HOST_PAGE_SIZE) {
      reasons.push(
        `RAM block "${id}" has pages of ${filePageSize} bytes, of which the kernel takes no part, and pages come in those of the host, ${HOST_PAGE_SIZE} bytes`,
      );
    }
  }
  const pinned = pinnedBytes();
  if (pinned > 0) {
    reasons.push(`${pinned} bytes of this process are pinned (VmPin), by a holder that has not said which they are`);
  }
  return reasons;
}

/** The reasons why the ranges cannot be registered, found by registering them while no page is missing. */
function rangeBlockers(memory: MappedGuestMemory): string[] {
  try {
    SharedUserfaultfd.join(rangesOf(memory), 'missing').leave();
    return [];
  } catch (error) {
    return [`userfaultfd cannot serve its memory: ${error instanceof Error ? error.message : String(error)}`];
  }
}

import { fstatSync, readFileSync } from 'node:fs';
import type { GuestMemory } from '@godwit/core';
import { type MappedGuestMemory, SharedUserfaultfd, Userfaultfd } from '@godwit/linux';
import { HOST_PAGE_SIZE, pinnedBytes, Uffd } from '@godwit/linux/unstable';
import { rangesOf, servable } from '../missing/serving-blockers.js';

type Block = MappedGuestMemory['blocks'][number];

/** The reasons why this memory cannot be protected against writing, one sentence each; empty when it can. */
export function protectionBlockers(memory: GuestMemory): string[] {
  const mapped = servable(memory);
  if (mapped === undefined) {
    return [
      'its memory is not of createGuestMemory or attachGuestMemory of @godwit/linux, which tells where it is mapped',
    ];
  }
  const reasons = mapped.blocks.flatMap((block) => blockBlockers(mapped, block));
  const pinned = pinnedBytes();
  if (pinned > 0) {
    reasons.push(
      `${pinned} bytes of this process are pinned (VmPin), by a holder that may write them without a page fault`,
    );
  }
  if (memory.pageSize < HOST_PAGE_SIZE) {
    reasons.push(
      `its pages of ${memory.pageSize} bytes are smaller than those of the host, ${HOST_PAGE_SIZE} bytes, which are protected as a whole`,
    );
  }
  try {
    if ((Userfaultfd.available() & Uffd.UFFD_FEATURE_WP_HUGETLBFS_SHMEM) === 0) {
      reasons.push('the kernel cannot write-protect shared memory (userfaultfd: Linux 5.19)');
    }
  } catch (error) {
    reasons.push(`this host serves no page faults: ${messageOf(error)}`);
  }
  return reasons.length > 0 ? reasons : rangeBlockers(mapped);
}

function blockBlockers({ pageSize }: MappedGuestMemory, block: Block): string[] {
  const { id, fd, anonymous, shared, pinned, filePageSize = 0 } = block;
  const reasons: string[] = [];
  if (shared === true) reasons.push(`RAM block "${id}" is declared shared: its contents would not be in the snapshot`);
  if (fd === null && !anonymous) {
    reasons.push(
      `RAM block "${id}" was attached without its memory file, so that its holes and its other mappings cannot be found`,
    );
  }
  if (pinned)
    reasons.push(`RAM block "${id}" has pages that are pinned for a device, which writes them without a page fault`);
  if (filePageSize > Math.max(pageSize, HOST_PAGE_SIZE)) {
    reasons.push(`RAM block "${id}" has pages of ${filePageSize} bytes, and the kernel protects no part of one`);
  }
  if (fd === null || reasons.length > 0) return reasons;
  const others = otherMappings(block, fd);
  if (others.length > 0) {
    reasons.push(
      `RAM block "${id}" can be written through another mapping of its memory file in this process (${others.join(', ')}), which is not protected: unmap that first`,
    );
  }
  return reasons;
}

/** Writable shared mappings of the same part of the memory file, at other addresses: /proc/self/maps (proc(5)). */
function otherMappings({ hostAddress, byteLength, fileOffset }: Block, fd: number): string[] {
  const { ino } = fstatSync(fd, { bigint: true });
  const found: string[] = [];
  for (const line of readFileSync('/proc/self/maps', 'utf8').split('\n')) {
    const [range = '', access = '', offset = '', , inode = ''] = line.split(/\s+/);
    if (inode !== String(ino) || access[1] !== 'w' || access[3] !== 's') continue;
    const [start, end] = range.split('-').map((hex) => BigInt(`0x${hex}`)) as [bigint, bigint];
    const from = BigInt(`0x${offset}`);
    const to = from + (end - start);
    if (to <= BigInt(fileOffset) || from >= BigInt(fileOffset + byteLength)) continue;
    // This is the block's own mapping, which may be one mapping, a part of one, or cut where its modes change.
    if (start - from === hostAddress - BigInt(fileOffset)) continue;
    found.push(`at 0x${start.toString(16)}`);
  }
  return found;
}

/** The reasons why the ranges cannot be registered, found by registering them while nothing is protected. */
function rangeBlockers(memory: MappedGuestMemory): string[] {
  try {
    SharedUserfaultfd.join(rangesOf(memory), 'synchronous').leave();
    return [];
  } catch (error) {
    return [`userfaultfd cannot protect its memory: ${messageOf(error)}`];
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

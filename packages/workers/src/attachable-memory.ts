import { GodwitError, type GuestMemory, type RamBlock } from '@godwit/core/pages';
import { attachGuestMemory, type GuestMemoryAttachment } from '@godwit/linux/memory';

/** Guest memory that other threads of the process can see at the same addresses, like that of `createGuestMemory`. */
export interface AttachableMemory extends GuestMemory {
  /** Describes the same blocks in the same order, by their addresses. */
  attachment(): GuestMemoryAttachment;
}

/** Whether worker threads can map `memory`. */
export function isAttachable(memory: GuestMemory): boolean {
  return typeof (memory as Partial<AttachableMemory>).attachment === 'function';
}

/**
 * The parts with which a worker thread maps `memory`.
 *
 * @throws GodwitError GODWIT_UNSUPPORTED when the memory has no `attachment`, or describes other blocks than it has
 * @example
 * worker.postMessage(attachmentOf(vm.memory)); // there: attachGuestMemory(...)
 */
export function attachmentOf(memory: GuestMemory): GuestMemoryAttachment {
  const { attachment } = memory as Partial<AttachableMemory>;
  if (typeof attachment !== 'function') {
    throw new GodwitError(
      'GODWIT_UNSUPPORTED',
      'page channels on worker threads need guest memory with an `attachment()`, as that of createGuestMemory of ' +
        '@godwit/linux has; add one that gives the address of each block, or leave onWorkers out',
    );
  }
  const described = attachment.call(memory);
  const same =
    described.blocks.length === memory.blocks.length &&
    described.blocks.every(({ id, byteLength }, i) => {
      const block = memory.blocks[i];
      return block?.id === id && block.byteLength === byteLength;
    });
  if (!same || (described.pageSize ?? memory.pageSize) !== memory.pageSize) {
    throw new GodwitError(
      'GODWIT_UNSUPPORTED',
      "the attachment() of the guest's memory must list the same blocks, in the same order, with the same page size",
    );
  }
  // `shared` may be set on the VM's memory after its attachment was made: threads must not touch a shared block either.
  const blocks = described.blocks.map((block, i) => ({ ...block, shared: memory.blocks[i]?.shared }));
  return { ...described, blocks, pageSize: memory.pageSize };
}

/** Maps the memory on a worker thread. Blocks that were attached by address alone report no holes and cannot discard pages. */
export function attachedMemory(attachment: GuestMemoryAttachment): GuestMemory {
  const memory = attachGuestMemory(attachment);
  const blocks = memory.blocks.map((block): RamBlock => {
    if (block.fd !== null || block.anonymous) return block;
    const { id, guestPhysicalAddress, byteLength, shared, readOnly } = block;
    const view = (offset: number, length: number) => block.view(offset, length);
    return { id, guestPhysicalAddress, byteLength, shared, readOnly, view };
  });
  return { pageSize: memory.pageSize, blocks };
}

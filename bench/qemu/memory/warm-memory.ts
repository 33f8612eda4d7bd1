import { createGuestMemory, hostMemory } from '@godwit/linux';
import { MemoryAdvice, madviseAsync } from '@godwit/linux/unstable';

/** Bytes that are left free for other processes, since the kernel kills one when memory runs out. */
const SPARE_BYTES = 2 ** 30;

/**
 * Populates this much memory and frees it again. In a virtual machine, memory that was freed more than about two seconds ago may have
 * been given back to the host, and the next allocation waits for the host. A measurement right after this call does not include that
 * wait.
 *
 * The kernel takes small pages and huge ones from different free lists, so that each kind is warmed.
 *
 * @throws Error when the machine has less free memory
 */
export async function warmMemory(byteLength: number): Promise<void> {
  const { availableBytes } = hostMemory();
  if (byteLength + SPARE_BYTES > availableBytes) {
    const gib = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
    throw new Error(`this needs ${gib(byteLength + SPARE_BYTES)} of free memory, and there are ${gib(availableBytes)}`);
  }
  for (const backing of ['file', 'auto'] as const) {
    const memory = createGuestMemory({ backing, blocks: [{ id: 'warm', guestPhysicalAddress: 0, byteLength }] });
    try {
      for (const block of memory.blocks) {
        await madviseAsync(block.hostAddress, block.byteLength, MemoryAdvice.MADV_POPULATE_WRITE);
      }
    } finally {
      memory.close();
    }
  }
}

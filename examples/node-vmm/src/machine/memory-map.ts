import { GodwitError, type GuestMemory, RAM_WINDOW_BYTES } from '@godwit/core/pages';
import type { BlockPlacement } from '@godwit/linux';
import type { GuestRam } from '../guest/guest-ram.js';
import { PAGE_SIZE, RAM_HIGH_ADDRESS, RAM_LOW_LIMIT } from '../guest/layout.js';

export const MIN_MEMORY_BYTES = 16 * 2 ** 20;
/** The most RAM that the page tables at the guest's fixed address can map: 64 page directories, less the hole. */
export const MAX_MEMORY_BYTES = 63 * 2 ** 30;

/**
 * Pages that KVM on Intel needs below 4 GiB, outside RAM, in the hole in which a PC has its flash: three for the task state segment
 * of real mode, one for its identity map.
 */
export const KVM_IDENTITY_MAP_ADDRESS = 0xfffb_c000;
export const KVM_TSS_ADDRESS = 0xfffb_d000;

/**
 * RAM of a PC: from 0 up to 3 GiB (`ram-low`), then the hole for PCI, APICs and flash, then the rest from 4 GiB on
 * (`ram-high`).
 *
 * @throws GodwitError GODWIT_INVALID_ARGUMENT when `memoryBytes` is no whole number of pages, or out of range
 */
export function ramBlocks(memoryBytes: number): BlockPlacement[] {
  if (
    !Number.isSafeInteger(memoryBytes) ||
    memoryBytes % PAGE_SIZE !== 0 ||
    memoryBytes < MIN_MEMORY_BYTES ||
    memoryBytes > MAX_MEMORY_BYTES
  ) {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `the memory of this machine is ${MIN_MEMORY_BYTES} to ${MAX_MEMORY_BYTES} bytes in pages of ${PAGE_SIZE}, got ${memoryBytes}`,
    );
  }
  const low = Math.min(memoryBytes, RAM_LOW_LIMIT);
  const blocks: BlockPlacement[] = [{ id: 'ram-low', guestPhysicalAddress: 0, byteLength: low }];
  if (memoryBytes > low) {
    blocks.push({ id: 'ram-high', guestPhysicalAddress: RAM_HIGH_ADDRESS, byteLength: memoryBytes - low });
  }
  return blocks;
}

/**
 * Checks that memory has the blocks of `layout`, for a machine whose RAM was made before it.
 *
 * @throws GodwitError GODWIT_INVALID_ARGUMENT
 */
export function checkRam({ blocks }: GuestMemory, layout: readonly BlockPlacement[]): void {
  const said = (all: readonly BlockPlacement[]) =>
    all.map(({ id, guestPhysicalAddress: at, byteLength }) => `${id} of ${byteLength} bytes at ${at}`).join(', ');
  if (said(blocks) === said(layout)) return;
  throw new GodwitError(
    'GODWIT_INVALID_ARGUMENT',
    `this machine has the RAM ${said(layout)}; given was ${said(blocks)}`,
  );
}

/** Guest-physical end of the guest's RAM, the hole included. */
export function endOfRam(memory: GuestMemory): number {
  return memory.blocks.reduce((end, block) => Math.max(end, block.guestPhysicalAddress + block.byteLength), 0);
}

/** Guest memory at an address; undefined when it is not RAM, or crosses the border of a block or window. */
export function guestBytes(memory: GuestMemory, address: number, length: number): Uint8Array | undefined {
  const block = memory.blocks.find(
    ({ guestPhysicalAddress, byteLength }) =>
      address >= guestPhysicalAddress && address + length <= guestPhysicalAddress + byteLength,
  );
  if (block === undefined) return undefined;
  const offset = address - block.guestPhysicalAddress;
  if ((offset % RAM_WINDOW_BYTES) + length > RAM_WINDOW_BYTES) return undefined;
  return block.view(offset, length);
}

/** Guest memory by guest-physical address. */
export function ramOf(memory: GuestMemory): GuestRam {
  return {
    view(guestPhysicalAddress, length) {
      const bytes = guestBytes(memory, guestPhysicalAddress, length);
      if (bytes !== undefined) return bytes;
      throw new GodwitError(
        'GODWIT_OUT_OF_RANGE',
        `${length} bytes at guest-physical address 0x${guestPhysicalAddress.toString(16)} are not within one piece of RAM`,
      );
    },
  };
}

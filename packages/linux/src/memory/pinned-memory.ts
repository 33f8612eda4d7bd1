import { readFileSync } from 'node:fs';

/** What of a block is of interest here. */
interface PinnableBlock {
  readonly identity: string | undefined;
  readonly hostAddress: bigint;
  readonly byteLength: number;
  readonly fileOffset: number;
  readonly pins: SharedArrayBuffer;
  unlessPinned(offset: number, byteLength: number, discard: () => boolean): boolean;
  pinBytes(offset: number, byteLength: number): () => void;
}

/** The blocks of this thread that are not closed. */
const openBlocks = new Set<PinnableBlock>();

export function blockOpened(block: PinnableBlock): void {
  openBlocks.add(block);
}

export function blockClosed(block: PinnableBlock): void {
  openBlocks.delete(block);
}

/** A block of this thread over the same part of the same memory file. */
export function blockWithIdentity(identity: string | undefined, byteLength: number): PinnableBlock | undefined {
  if (identity === undefined) return undefined;
  for (const block of openBlocks) if (block.identity === identity && block.byteLength === byteLength) return block;
  return undefined;
}

/**
 * Calls `discard` for bytes of `block` unless they are pinned through another block of this thread that begins elsewhere in the same
 * memory file, and says whether it was done.
 */
export function unlessPinnedElsewhere(
  block: PinnableBlock,
  offset: number,
  byteLength: number,
  discard: () => boolean,
): boolean {
  const file = fileOf(block);
  const start = block.fileOffset + offset;
  let work = discard;
  for (const other of openBlocks) {
    if (other === block || file === undefined || fileOf(other) !== file || other.pins === block.pins) continue;
    const from = Math.max(start, other.fileOffset);
    const length = Math.min(start + byteLength, other.fileOffset + other.byteLength) - from;
    if (length <= 0) continue;
    const inner = work;
    work = () => other.unlessPinned(from - other.fileOffset, length, inner);
  }
  return work();
}

function fileOf({ identity }: PinnableBlock): string | undefined {
  return identity?.slice(0, identity.lastIndexOf('+'));
}

/**
 * Says that a device, or the kernel on its behalf, holds guest memory by its physical pages and not by its address: memory
 * that is mapped for DMA, io_uring's fixed buffers, RDMA. Until the function that is returned is called no page of it is
 * discarded, in any thread: the holder would go on writing pages that are the guest's no more, and nobody would notice.
 *
 * `Type1Container` and `Ioas` of `@godwit/vfio` do it for what they map. Call it before the memory is pinned.
 *
 * ```ts
 * const unpin = pinHostMemory(memory.blocks[0].hostAddress, 2 ** 20);
 * registerFixedBuffers(ring, memory.blocks[0].hostAddress, 2 ** 20);
 * ...
 * unregisterFixedBuffers(ring);
 * unpin();
 * ```
 *
 * @param hostAddress in this process; what is no guest memory (`createGuestMemory`, `attachGuestMemory`) is left out
 */
export function pinHostMemory(hostAddress: bigint, byteLength: number): () => void {
  let unpin = unpinned;
  const end = hostAddress + BigInt(byteLength);
  for (const block of openBlocks) {
    const from = max(hostAddress, block.hostAddress);
    const to = min(end, block.hostAddress + BigInt(block.byteLength));
    if (from < to) unpin = both(unpin, block.pinBytes(Number(from - block.hostAddress), Number(to - from)));
  }
  return unpin;
}

function unpinned(): void {}

function both(one: () => void, other: () => void): () => void {
  if (one === unpinned) return other;
  return () => {
    one();
    other();
  };
}

/**
 * Bytes of this process's memory that the kernel has pinned for long and said so (VmPin in /proc/self/status): io_uring's
 * fixed buffers, RDMA and iommufd count there. Which bytes they are it does not say.
 */
export function pinnedBytes(): number {
  const found = /^VmPin:\s+(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'latin1'));
  return Number(found?.[1] ?? 0) * 1024;
}

function max(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}

function min(a: bigint, b: bigint): bigint {
  return a < b ? a : b;
}

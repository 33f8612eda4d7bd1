/** `@godwit/linux/memory`: guest memory alone: for threads, which must start quickly. */
export type { BlockPlacement } from './block-layout.js';
export { type HostMemory, hostMemory } from './host-memory.js';
export { type HugePages, type MemoryBacking, transparentHugePagesObstacle } from './huge-pages.js';
export {
  attachGuestMemory,
  type BlockAttachment,
  createGuestMemory,
  type GuestMemoryAttachment,
  type GuestMemoryOptions,
  MappedGuestMemory,
} from './mapped-guest-memory.js';
export { MappedRamBlock } from './mapped-ram-block.js';
export { pinHostMemory } from './pinned-memory.js';

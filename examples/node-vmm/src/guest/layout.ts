/**
 * The layout of the guest's memory. Guest-physical addresses in bytes. Mirrors guest/constants.S.
 *
 *     0x00_1000  boot parameters (1 page)             0x02_0000  page tables (66 pages), by the VMM
 *     0x00_2000  shared: stop flag, console lock      0x06_2000  free for the VMM up to 0x0a_0000
 *     0x00_3000  mailbox (4 pages), by the VMM        0x10_0000  image (up to 64 KiB), never written by the guest
 *     0x00_8000  control pages, one per vCPU          0x20_0000  generation tables, then data pages; rest of ram-low
 *     0x01_0000  stacks, one page per vCPU            4 GiB      ram-high: data pages
 *     0x01_8000  line buffers, one page per vCPU
 */

export const PAGE_SIZE = 4096;
export const MAXIMUM_VCPUS = 8;

export const PARAMS_ADDRESS = 0x1000;
export const SHARED_ADDRESS = 0x2000;
export const MAILBOX_ADDRESS = 0x3000;
export const MAILBOX_PAGES = 4;
export const CONTROL_ADDRESS = 0x8000;
export const STACKS_ADDRESS = 0x1_0000;
export const LINES_ADDRESS = 0x1_8000;
/** PML4, then one page directory pointer table, then up to 64 page directories of 2 MiB pages: 64 GiB. */
export const PAGE_TABLES_ADDRESS = 0x2_0000;
export const PAGE_TABLES_PAGES = 66;
/** First byte below the legacy hole that the guest does not use: a VMM that wants a GDT or TSS puts it here. */
export const VMM_SCRATCH_ADDRESS = 0x6_2000;
/** Load address and entry (RIP) of every vCPU. */
export const IMAGE_ADDRESS = 0x10_0000;
export const GENERATION_TABLES_ADDRESS = 0x20_0000;

/** End of the largest possible ram-low; the PCI hole is from here to 4 GiB. */
export const RAM_LOW_LIMIT = 0xc000_0000;
/** Start of ram-high. */
export const RAM_HIGH_ADDRESS = 0x1_0000_0000;

/** In the shared page: u32, 1 once a vCPU has found a defect; every vCPU then stops within a batch. */
export const SHARED_STOP_OFFSET = 0;
/** In the shared page: u32, 1 while a vCPU prints. */
export const SHARED_LOCK_OFFSET = 64;

/** Offsets in a vCPU's control page; each is a little-endian u64 unless said otherwise. */
export const CONTROL = {
  /** Page writes so far. The guest keeps the same number in R10 and compares. */
  WRITES: 0,
  /** Address of the page being written, or of the last one written; 0 before the first. */
  IN_FLIGHT: 8,
  /** Last clock reading, microseconds. */
  CLOCK: 16,
  /** Largest step between two clock readings since the last heartbeat, microseconds. */
  STALL: 24,
  /** The same since the start. */
  STALL_EVER: 32,
  /** Heartbeats printed (vCPU 0). */
  HEARTBEATS: 40,
  HEARTBEAT_NEXT: 48,
  HEARTBEAT_LAST: 56,
  BATCH: 64,
  BATCH_START: 72,
  DEADLINE: 80,
  CARRY: 88,
  /** Newest mailbox message seen (vCPU 0). */
  MAIL_SEEN: 96,
  MAIL_BUSY: 104,
  /** Pages owned. */
  OWNED: 112,
  /** u32 state of the random order. */
  RNG: 120,
  /** The present row of the picture (vCPU 0). */
  CELLS: 344,
  /** vCPU 0: eight u64, other vCPUs' WRITES when last read. */
  SEEN: 192,
  /** Five u64: defect code (0 = none), address, offset in the page, expected, found. */
  DEFECT: 256,
} as const;

/** Address of a vCPU's control page. */
export function controlAddress(vcpu: number): number {
  return CONTROL_ADDRESS + vcpu * PAGE_SIZE;
}

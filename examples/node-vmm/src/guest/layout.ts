/**
 * Where things are in the guest's memory. Guest-physical addresses in bytes. Mirrors guest/constants.S.
 *
 *     0x00_1000  boot parameters (1 page)             0x02_0000  page tables (66 pages), by the VMM
 *     0x00_2000  shared: stop flag, console lock      0x06_2000  free for the VMM up to 0x0a_0000
 *     0x00_3000  mailbox (4 pages), by the VMM        0x10_0000  image (up to 64 KiB), never written by the guest
 *     0x00_8000  control pages, one per vCPU          0x20_0000  generation tables, then data pages; rest of ram-low
 *     0x01_0000  stacks, one page per vCPU            4 GiB      ram-high: data pages
 *     0x01_8000  line buffers, one page per vCPU
 */
import type { BootParams, PageRange } from './boot-params.js';

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
  /** vCPU 0: eight u64, other vCPUs' WRITES when last looked at. */
  SEEN: 192,
  /** Five u64: defect code (0 = none), address, offset in the page, expected, found. */
  DEFECT: 256,
} as const;

/** Address of a vCPU's control page. */
export function controlAddress(vcpu: number): number {
  return CONTROL_ADDRESS + vcpu * PAGE_SIZE;
}

/** Pages of the working set, all ranges together. */
export function workingSetPages(ranges: readonly PageRange[]): number {
  return ranges.reduce((sum, range) => sum + range.pages, 0);
}

/**
 * Pages owned by a vCPU: page i of the working set belongs to vCPU `i mod vcpus`, so that neighbours have different
 * owners and two vCPUs keep hitting the same word of a dirty bitmap.
 */
export function ownedPages(params: BootParams, vcpu: number): number {
  return Math.floor((workingSetPages(params.ranges) + params.vcpus - 1 - vcpu) / params.vcpus);
}

/** Guest-physical address of the page with this index among those that a vCPU owns. */
export function ownedPageAddress(params: BootParams, vcpu: number, index: number): number {
  let rest = index * params.vcpus + vcpu;
  for (const range of params.ranges) {
    if (rest < range.pages) return range.guestPhysicalAddress + rest * PAGE_SIZE;
    rest -= range.pages;
  }
  throw new RangeError(`vCPU ${vcpu} owns no page with index ${index}`);
}

/** Bytes of a vCPU's table of expected generations: a u32 per owned page, whole pages. */
export function generationTableBytes(owned: number): number {
  return Math.ceil((owned * 4) / PAGE_SIZE) * PAGE_SIZE;
}

/** Size of the guest's RAM blocks, bytes, whole pages. */
export interface RamSizes {
  /** From address 0; at most RAM_LOW_LIMIT. */
  readonly low: number;
  /** From 4 GiB; 0 when there is none. */
  readonly high: number;
}

/** A working set of `lowPages` behind the generation tables and `highPages` from 4 GiB on, and where the tables are. */
export interface Placement {
  readonly ranges: readonly PageRange[];
  readonly tables: readonly number[];
}

/**
 * Places a working set. With `highPages` undefined, `lowPages` is the whole working set, split over both blocks in
 * proportion to their free space.
 * @throws RangeError when it does not fit.
 */
export function placeWorkingSet(ram: RamSizes, vcpus: number, lowPages: number, highPages?: number): Placement {
  if (!Number.isInteger(vcpus) || vcpus < 1 || vcpus > MAXIMUM_VCPUS) throw new RangeError(`1..8 vCPUs, not ${vcpus}`);
  const total = lowPages + (highPages ?? 0);
  const tableBytes = generationTableBytes(Math.ceil(total / vcpus));
  const tables = Array.from({ length: vcpus }, (_, vcpu) => GENERATION_TABLES_ADDRESS + vcpu * tableBytes);
  const firstDataPage = GENERATION_TABLES_ADDRESS + vcpus * tableBytes;
  const lowFree = Math.max(0, Math.floor((Math.min(ram.low, RAM_LOW_LIMIT) - firstDataPage) / PAGE_SIZE));
  const highFree = Math.floor(ram.high / PAGE_SIZE);
  let low = lowPages;
  let high = highPages ?? 0;
  if (highPages === undefined && highFree > 0) {
    high = Math.min(highFree, Math.round((total * highFree) / (lowFree + highFree)));
    low = total - high;
  }
  if (low > lowFree || high > highFree) {
    throw new RangeError(
      `a working set of ${low} + ${high} pages does not fit: ${lowFree} pages are free in ram-low above the tables, ${highFree} in ram-high`,
    );
  }
  const ranges: PageRange[] = [];
  if (low > 0) ranges.push({ guestPhysicalAddress: firstDataPage, pages: low });
  if (high > 0) ranges.push({ guestPhysicalAddress: RAM_HIGH_ADDRESS, pages: high });
  return { ranges, tables };
}

/** The pages that the guest writes, the vCPU that owns each, and the places of the pages and their tables in RAM. */
import type { BootParams, PageRange } from './boot-params.js';
import { GENERATION_TABLES_ADDRESS, MAXIMUM_VCPUS, PAGE_SIZE, RAM_HIGH_ADDRESS, RAM_LOW_LIMIT } from './layout.js';

// Looked up once: these are on the path of every page.
const { floor } = Math;

/** Pages of the working set, all ranges together. */
export function workingSetPages(ranges: readonly PageRange[]): number {
  return ranges.reduce((sum, range) => sum + range.pages, 0);
}

/**
 * Number of pages that a vCPU owns: page i of the working set belongs to vCPU `i mod vcpus`, so that neighbouring pages have different
 * owners, and two vCPUs often set bits in the same word of a dirty bitmap.
 */
export function ownedPages(params: BootParams, vcpu: number): number {
  return floor((workingSetPages(params.ranges) + params.vcpus - 1 - vcpu) / params.vcpus);
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

/** The ranges of a working set, after the generation tables and from 4 GiB on, and the addresses of the tables. */
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
  const lowFree = Math.max(0, floor((Math.min(ram.low, RAM_LOW_LIMIT) - firstDataPage) / PAGE_SIZE));
  const highFree = floor(ram.high / PAGE_SIZE);
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

import { GodwitError } from '../errors.js';
import { GUEST_PAGE_BYTES, type Scenario } from './scenario.js';
import { smallestPart } from './workload/shape.js';

/** The largest page that the engine takes. */
const LARGEST = 16 * 2 ** 20;

/**
 * The page counts that a simulation aims at. With more than `wantedPages` pages of RAM, a page of the simulation stands for several pages
 * of the guest, as long as the memory that is sent within the downtime limit and each part of the working set have `wantedOfPart` pages;
 * with more than `mostPages`, as long as they have 64.
 */
export interface Fineness {
  readonly wantedPages: number;
  readonly wantedOfPart: number;
  readonly mostPages: number;
}

/** The fineness of a result: 8 GiB of 4 KiB pages. With 4,096 pages in a part, the number of dirty pages varies by 1.6 % at most. */
export const FINE: Fineness = { wantedPages: 2 ** 21, wantedOfPart: 4096, mostPages: 2 ** 24 };

/** The fineness of the simulations in a search: the number of dirty pages varies by 3 %. */
export const COARSE: Fineness = { wantedPages: 2 ** 15, wantedOfPart: 1024, mostPages: 2 ** 18 };

/** The fewest pages that a part may have: the results of a part with fewer would be random. */
const LEAST_OF_PART = 64;

/** The bytes of a guest page of a scenario. */
export function guestPageOf({ memory }: Scenario): number {
  const { pageSize = GUEST_PAGE_BYTES } = memory;
  if (Number.isInteger(Math.log2(pageSize)) && pageSize >= 256 && pageSize <= LARGEST) return pageSize;
  throw new GodwitError(
    'GODWIT_INVALID_ARGUMENT',
    `a guest page must be a power of two from 256 to ${LARGEST} bytes, got ${pageSize}`,
  );
}

/**
 * Chooses the bytes of a page of the simulation: the guest's own page, or a power of two times it for a large guest. A simulated page then
 * stands for several guest pages that are dirty or clean together, and the number of writes is divided by their number, so that the
 * expected number of dirty bytes is the same at any time and only its variance grows. A trace keeps the guest's pages, since it names the
 * pages that were written.
 */
export function granularityOf(scenario: Scenario, downtimeLimitMs: number, fineness: Fineness): number {
  const { bytes, populatedBytes = bytes } = scenario.memory;
  const withinLimit = (scenario.link.bytesPerSecond * downtimeLimitMs) / 1000;
  const part = Math.min(withinLimit, smallestPart(scenario.workload, populatedBytes));
  let size = guestPageOf(scenario);
  for (; size < LARGEST; size *= 2) {
    const wanted = bytes / size <= fineness.wantedPages || part / (size * 2) < fineness.wantedOfPart;
    const needed = bytes / size <= fineness.mostPages || part / (size * 2) < LEAST_OF_PART;
    if (wanted && needed) return size;
  }
  return size;
}

/** Checks a granularity that was given. */
export function checkGranularity(scenario: Scenario, granularity: number): number {
  const page = guestPageOf(scenario);
  if (Number.isInteger(Math.log2(granularity)) && granularity >= page && granularity <= LARGEST) return granularity;
  throw new GodwitError(
    'GODWIT_INVALID_ARGUMENT',
    `the granularity must be a power of two from the guest's page (${page}) to ${LARGEST} bytes, got ${granularity}`,
  );
}

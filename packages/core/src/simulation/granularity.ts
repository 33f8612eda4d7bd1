import { GodwitError } from '../errors.js';
import { GUEST_PAGE_BYTES, type Scenario } from './scenario.js';
import { smallestPart } from './workload/shape.js';

/** The largest page that the engine takes. */
const LARGEST = 16 * 2 ** 20;

/** What is sent within the downtime limit has at least so many pages of the simulation, and so has each part of the working set. */
const PAGES_OF_ANYTHING = 1024;

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
 * Chooses the bytes of a page of the simulation: the guest's own page, or where RAM has more than `mostPages` of those, a power of two
 * times it. A simulated page then stands for many that are dirty or clean together, with as many writes fewer, so that the expected
 * number of dirty bytes is the same at any time. It stays below a thousandth of what is sent within the downtime limit, and of each part
 * of the working set. A trace keeps the guest's pages, since it says which of them were written.
 */
export function granularityOf(scenario: Scenario, downtimeLimitMs: number, mostPages: number): number {
  const { bytes, populatedBytes = bytes } = scenario.memory;
  const withinLimit = (scenario.link.bytesPerSecond * downtimeLimitMs) / 1000;
  const largest = Math.min(withinLimit, smallestPart(scenario.workload, populatedBytes)) / PAGES_OF_ANYTHING;
  let size = guestPageOf(scenario);
  while (size < LARGEST && bytes / size > mostPages && size * 2 <= largest) size *= 2;
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

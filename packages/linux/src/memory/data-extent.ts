import { HOST_PAGE_SIZE, mincore, seekData, seekHole } from '../libc/index.js';

/** Host pages looked at in one call: 16 MiB of guest memory, some tens of microseconds. */
const PAGES_PER_CALL = 4096;

/**
 * The parts of a memory file between two offsets (host-page aligned, in bytes) that have data, ascending; parts that
 * touch may come as several. `address` is where the file's offset 0 is mapped.
 *
 * SEEK_HOLE would walk the page cache to the next hole however far that is (about 11 ms per GiB), and again for every
 * range of a walk; so SEEK_DATA skips holes, and mincore says what is resident in the next 16 MiB. mincore cannot tell
 * a swapped-out page from a hole: a gap between resident pages is asked about with SEEK_DATA.
 *
 * @param file says the memory file's descriptor, or throws; it is asked before each use, since a walk may rest in between
 */
export function* dataExtents(
  file: () => number,
  address: bigint,
  from: number,
  limit: number,
): IterableIterator<{ readonly start: number; readonly end: number }> {
  const residency = new Uint8Array(PAGES_PER_CALL);
  let at = from;
  while (at < limit) {
    const data = seekData(file(), at);
    if (data === -1 || data >= limit) return;
    const base = Math.floor(data / HOST_PAGE_SIZE) * HOST_PAGE_SIZE;
    const pages = Math.min(PAGES_PER_CALL, Math.ceil((limit - base) / HOST_PAGE_SIZE));
    mincore(address + BigInt(base), pages * HOST_PAGE_SIZE, residency);
    for (let page = 0; page < pages; ) {
      const first = page;
      const resident = ((residency[page] as number) & 1) === 1;
      while (page < pages && (((residency[page] as number) & 1) === 1) === resident) page++;
      const start = base + first * HOST_PAGE_SIZE;
      const end = base + page * HOST_PAGE_SIZE;
      if (resident) yield { start, end };
      else yield* swappedOut(file, start, end);
    }
    at = base + pages * HOST_PAGE_SIZE;
  }
}

/** Data in a range of which nothing is resident; as a rule there is none, and one call says so. */
function* swappedOut(
  file: () => number,
  from: number,
  limit: number,
): IterableIterator<{ readonly start: number; readonly end: number }> {
  let at = from;
  while (at < limit) {
    const start = seekData(file(), at);
    if (start === -1 || start >= limit) return;
    const hole = seekHole(file(), start);
    // -1: the data that we saw was punched out meanwhile, and nothing follows.
    if (hole === -1) return;
    yield { start, end: Math.min(hole, limit) };
    at = hole;
  }
}

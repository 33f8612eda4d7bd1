import { HOST_PAGE_SIZE, mincore, seekData, seekHole } from '../libc/index.js';

/** Host pages looked at in one call: 16 MiB of guest memory, some tens of microseconds. */
const PAGES_PER_CALL = 4096;

const residency = new Uint8Array(PAGES_PER_CALL);

/**
 * Where the data that starts at `data` (an offset that SEEK_DATA gave) ends, but no further than `limit`. Offsets in
 * bytes; `address` is where the file's offset 0 is mapped.
 *
 * SEEK_HOLE would walk the page cache to the next hole however far that is (about 11 ms per GiB), and again for every
 * range of a walk; mincore looks only where it is asked to. It cannot tell a swapped-out page from a hole, so a page
 * that is not resident is asked about with SEEK_DATA.
 */
export function endOfData(fd: number, address: bigint, data: number, limit: number): number {
  let at = Math.floor(data / HOST_PAGE_SIZE) * HOST_PAGE_SIZE;
  while (at < limit) {
    const pages = Math.min(PAGES_PER_CALL, Math.ceil((limit - at) / HOST_PAGE_SIZE));
    mincore(address + BigInt(at), pages * HOST_PAGE_SIZE, residency);
    let page = 0;
    while (page < pages && ((residency[page] as number) & 1) === 1) page++;
    at += page * HOST_PAGE_SIZE;
    if (page === pages) continue;
    if (seekData(fd, at) !== at) return at;
    // Swapped out: rare, and then the walk of SEEK_HOLE is the smaller evil. -1: the rest was punched out meanwhile.
    const hole = seekHole(fd, at);
    if (hole === -1) return at;
    at = hole;
  }
  return limit;
}

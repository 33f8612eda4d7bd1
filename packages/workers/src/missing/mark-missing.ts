import { Errno, HOST_PAGE_SIZE, yieldProcessor } from '@godwit/linux/unstable/libc';

/** The number of tries before a mapping that is being changed all the time is left as it is; each try yields to other threads. */
const MOST_TRIES = 10_000;

/** The operation of a `Userfaultfd` that marks pages. */
export interface PageMarker {
  poison(address: number, byteLength: number): number;
  readonly errno: number;
}

/**
 * Marks the pages of a range that are not there as pages that never come. Returns false when the kernel could not mark all of them: once
 * the range is unregistered, a page without the mark reads as zeros.
 */
export function markMissing(uffd: PageMarker, start: number, byteLength: number): boolean {
  let tries = 0;
  for (let done = 0; done < byteLength; ) {
    done += uffd.poison(start + done, byteLength - done);
    if (done >= byteLength) break;
    // A page that has just come stays. Nothing is to be marked where nothing is mapped.
    if (uffd.errno === Errno.EEXIST || uffd.errno === Errno.ENOENT) {
      done += HOST_PAGE_SIZE;
      continue;
    }
    if (uffd.errno !== Errno.EAGAIN || ++tries > MOST_TRIES) return false;
    yieldProcessor();
  }
  return true;
}

import { abortable } from '../abortable.js';
import type { Clock } from '../clock.js';
import type { FrameStream } from '../link/frame-stream.js';
import type { DirtyBitmap } from '../memory/dirty-bitmap.js';
import type { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import { pagesOf, populatedRuns } from '../memory/guest-memory.js';
import type { MemoryWindows } from '../memory/memory-windows.js';
import { type PageRun, PageRunList } from '../memory/page-run.js';
import { splitZeroPages } from '../memory/zero-page.js';
import { digestPages } from './digest-pages.js';
import { DIGEST_BYTES } from './page-digest.js';

/** Bytes of guest memory whose digests are sent in one frame: two or three milliseconds of work for either side. */
const BYTES_PER_FRAME = 4 * 2 ** 20;

export interface DigestParts {
  readonly windows: MemoryWindows;
  readonly stream: FrameStream;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  /** Most bytes of payload that the destination takes in one frame. */
  readonly maximumPayload: number;
  /** Pages whose contents nobody needs: the destination has zeros there. */
  readonly unneeded?: DirtyBitmaps | undefined;
}

/**
 * Sends the digest of every non-zero page and then `digestsEnd`, with the guest paused; resolves with the number of digests. Pages
 * without a digest are zero at the destination, which checks that. Holes are not read, and shared blocks have no digests, since they are
 * the same memory at both ends.
 */
export async function sendDigests(parts: DigestParts): Promise<number> {
  const { windows, stream, clock, signal, maximumPayload } = parts;
  let sent = 0;
  // The number of pages is a power of two, so that it divides a window and no step crosses a window.
  const fitting = 2 ** Math.floor(Math.log2(maximumPayload / DIGEST_BYTES));
  const step = Math.max(1, Math.min(BYTES_PER_FRAME / windows.pageSize, fitting));
  const digests = new Uint32Array((step * DIGEST_BYTES) / 4);
  const payload = new Uint8Array(digests.buffer);
  const nonZero = new PageRunList();
  const zero = new PageRunList();
  for (const [blockIndex, block] of windows.memory.blocks.entries()) {
    if (block.shared) continue;
    const unneeded = parts.unneeded?.at(blockIndex);
    const pages = pagesOf(windows.memory, block);
    for (let first = 0; first < pages; first += step) {
      nonZero.clear();
      zero.clear();
      for (const run of populatedRuns(block, { firstPage: first, pageCount: Math.min(step, pages - first) })) {
        for (const { firstPage, pageCount } of needed(run, unneeded)) {
          splitZeroPages(windows, blockIndex, firstPage, pageCount, nonZero, zero);
        }
      }
      let at = 0;
      for (let i = 0; i < nonZero.length; i++) {
        const bytes = windows.bytes(blockIndex, nonZero.firstPage(i), nonZero.runPages(i));
        digestPages(bytes, 0, bytes.byteLength, windows.pageSize, digests, at);
        at += 2 * nonZero.runPages(i);
      }
      if (at > 0) {
        const bytes = payload.subarray(0, nonZero.pageCount * DIGEST_BYTES);
        await abortable(
          stream.write({ type: 'digests', block: blockIndex, runs: nonZero.toFlatArray() }, [bytes]),
          signal,
        );
        sent += nonZero.pageCount;
      }
      await clock.yield();
      signal.throwIfAborted();
    }
  }
  await abortable(stream.write({ type: 'digestsEnd' }), signal);
  return sent;
}

/** The parts of a run that are needed. */
function* needed(run: PageRun, unneeded: DirtyBitmap | undefined): Iterable<PageRun> {
  if (unneeded === undefined) {
    yield run;
    return;
  }
  const end = run.firstPage + run.pageCount;
  for (let page = unneeded.nextClean(run.firstPage); page < end; ) {
    const next = unneeded.nextDirty(page, end);
    const stop = next === -1 ? end : next;
    yield { firstPage: page, pageCount: stop - page };
    page = unneeded.nextClean(stop);
  }
}

import { abortable } from '../abortable.js';
import type { Clock } from '../clock.js';
import type { FrameStream } from '../link/frame-stream.js';
import { pagesOf } from '../memory/guest-memory.js';
import type { MemoryWindows } from '../memory/memory-windows.js';
import { PageRunList } from '../memory/page-run.js';
import { splitZeroPages } from '../memory/zero-page.js';
import { DIGEST_BYTES, digestPage } from './page-digest.js';

/** Pages whose digests travel in one frame: 32 KiB of payload, and a few milliseconds of work. */
const PAGES_PER_FRAME = 4096;

/**
 * Sends the digest of every page that is not zero, with the guest paused. Pages that are not mentioned are zero: the
 * destination checks that too. Holes are not read.
 */
export async function sendDigests(
  windows: MemoryWindows,
  stream: FrameStream,
  clock: Clock,
  signal: AbortSignal,
): Promise<number> {
  let sent = 0;
  const digests = new Uint32Array((PAGES_PER_FRAME * DIGEST_BYTES) / 4);
  const payload = new Uint8Array(digests.buffer);
  const nonZero = new PageRunList();
  const zero = new PageRunList();
  for (const [blockIndex, block] of windows.memory.blocks.entries()) {
    const pages = pagesOf(windows.memory, block);
    for (let first = 0; first < pages; first += PAGES_PER_FRAME) {
      const range = { firstPage: first, pageCount: Math.min(PAGES_PER_FRAME, pages - first) };
      nonZero.clear();
      zero.clear();
      for (const run of block.populated?.(range) ?? [range]) {
        splitZeroPages(windows, blockIndex, run.firstPage, run.pageCount, nonZero, zero);
      }
      if (nonZero.length === 0) continue;
      let at = 0;
      for (let i = 0; i < nonZero.length; i++) {
        const end = nonZero.firstPage(i) + nonZero.runPages(i);
        for (let page = nonZero.firstPage(i); page < end; page++, at += 2) {
          digestPage(windows, blockIndex, page, digests, at);
        }
      }
      const bytes = payload.subarray(0, nonZero.pageCount * DIGEST_BYTES);
      await abortable(stream.write({ type: 'digests', block: blockIndex, runs: nonZero.toFlatArray() }, [bytes]), signal);
      sent += nonZero.pageCount;
      await clock.yield();
      signal.throwIfAborted();
    }
  }
  await abortable(stream.write({ type: 'digestsEnd' }), signal);
  return sent;
}

import type { MemoryWindows } from '../memory/memory-windows.js';
import { PageRunList } from '../memory/page-run.js';
import type { Compression } from './page-encoding.js';

/** A batch of pages that are not zero, sorted by how they are sent. Made once and used again and again. */
export class EncodedBatch {
  round = 0;
  block = 0;
  /** True when nothing was tried on it. */
  raw = true;
  /** What the whole pages are to be compressed with. */
  compression: Compression | undefined;
  /** Pages that are sent with their contents, and where these lie: in guest memory or in slots of the delta cache. */
  readonly whole = new PageRunList(256);
  readonly chunks: Uint8Array[] = [];
  wholeBytes = 0;
  /** Pages that are sent as deltas, which fill the first `deltaBytes` bytes of `deltas`. */
  readonly delta = new PageRunList(256);
  deltas: Uint8Array<ArrayBufferLike> = new Uint8Array(0);
  deltaBytes = 0;
  /** The contents of `whole`, one after the other, while they are compressed. */
  staging: Uint8Array<ArrayBufferLike> = new Uint8Array(0);

  reset(round: number, block: number): void {
    this.round = round;
    this.block = block;
    this.raw = true;
    this.compression = undefined;
    this.whole.clear();
    this.chunks.length = 0;
    this.wholeBytes = 0;
    this.delta.clear();
    this.deltaBytes = 0;
  }

  /** All pages whole, by reference. No run crosses a window. */
  takeFrom(windows: MemoryWindows, pages: PageRunList): void {
    for (let i = 0; i < pages.length; i++) {
      this.whole.push(pages.firstPage(i), pages.runPages(i));
      this.chunks.push(windows.bytes(this.block, pages.firstPage(i), pages.runPages(i)));
    }
    this.wholeBytes = pages.pageCount * windows.pageSize;
  }

  /** Copies the whole pages into one piece, which the guest does not change. */
  stage(): Uint8Array {
    if (this.staging.length < this.wholeBytes) this.staging = new Uint8Array(this.wholeBytes);
    let at = 0;
    for (const chunk of this.chunks) {
      this.staging.set(chunk, at);
      at += chunk.length;
    }
    return this.staging.subarray(0, at);
  }
}

import type { MemoryWindows } from '../memory/memory-windows.js';
import { PageRunList } from '../memory/page-run.js';
import type { WholePageEncoding } from './page-encoding.js';

/** The non-zero pages of a batch, sorted by how they are sent. Objects are reused. */
export class EncodedBatch {
  round = 0;
  block = 0;
  /** True when no encoding is used for the batch. */
  raw = true;
  /** The encoding of the whole pages, if any. */
  encoding: WholePageEncoding | undefined;
  /**
   * Pages that are sent with their contents, and views of these contents in guest memory or in slots of the delta
   * cache.
   */
  readonly whole = new PageRunList(256);
  readonly chunks: Uint8Array[] = [];
  wholeBytes = 0;
  /** Pages that are sent as deltas, which fill the first `deltaBytes` bytes of `deltas`. */
  readonly delta = new PageRunList(256);
  deltas: Uint8Array<ArrayBufferLike> = new Uint8Array(0);
  deltaBytes = 0;
  /** The contents of `whole`, one after the other, while they are encoded. */
  staging: Uint8Array<ArrayBufferLike> = new Uint8Array(0);

  reset(round: number, block: number): void {
    this.round = round;
    this.block = block;
    this.raw = true;
    this.encoding = undefined;
    this.whole.clear();
    this.chunks.length = 0;
    this.wholeBytes = 0;
    this.delta.clear();
    this.deltaBytes = 0;
  }

  /** Adds all pages as whole pages, by reference. No run may cross a window. */
  takeFrom(windows: MemoryWindows, pages: PageRunList): void {
    for (let i = 0; i < pages.length; i++) {
      this.whole.push(pages.firstPage(i), pages.runPages(i));
      this.chunks.push(windows.bytes(this.block, pages.firstPage(i), pages.runPages(i)));
    }
    this.wholeBytes = pages.pageCount * windows.pageSize;
  }

  /** Copies the whole pages into one buffer, which the guest cannot change. */
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

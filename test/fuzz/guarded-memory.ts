import { type GuestMemory, type PageRun, PageRunList, type RamBlock } from '@godwit/core';
import { PAGE } from './example-frames.js';

const CANARY = 0xa5;

/** Guest memory whose blocks lie in one buffer with canaries between them, which show a write outside RAM. */
export class GuardedMemory implements GuestMemory {
  readonly pageSize = PAGE;
  readonly blocks: readonly RamBlock[];
  readonly #bytes: Uint8Array;
  readonly #gaps: readonly Uint8Array[];

  /** One block for each number of pages. */
  constructor(pages: readonly number[]) {
    const total = pages.reduce((sum, count) => sum + count, pages.length + 1) * PAGE;
    this.#bytes = new Uint8Array(total).fill(CANARY);
    const gaps: Uint8Array[] = [];
    let at = 0;
    let address = 0;
    this.blocks = pages.map((count, index) => {
      gaps.push(this.#bytes.subarray(at, at + PAGE));
      at += PAGE;
      const ram = this.#bytes.subarray(at, at + count * PAGE).fill(0);
      at += count * PAGE;
      const block: RamBlock = {
        id: `ram${index}`,
        guestPhysicalAddress: address,
        byteLength: count * PAGE,
        view: (offset, length) => {
          if (offset < 0 || length < 0 || offset + length > ram.length) throw new RangeError('outside the block');
          return ram.subarray(offset, offset + length);
        },
        discard: ({ firstPage, pageCount }) => {
          ram.fill(0, firstPage * PAGE, (firstPage + pageCount) * PAGE);
          return true;
        },
        populated: (range: PageRun = { firstPage: 0, pageCount: count }) => {
          const list = new PageRunList();
          list.push(range.firstPage, range.pageCount);
          return list;
        },
      };
      address += count * PAGE;
      return block;
    });
    gaps.push(this.#bytes.subarray(at));
    this.#gaps = gaps;
  }

  /** Makes RAM zero again. */
  reset(): void {
    for (const block of this.blocks) block.view(0, block.byteLength).fill(0);
  }

  /** Throws when a byte outside the RAM blocks has changed. */
  check(): void {
    for (const [index, gap] of this.#gaps.entries()) {
      const at = gap.findIndex((byte) => byte !== CANARY);
      if (at !== -1) throw new Error(`byte ${at} of the gap before block ${index} was written`);
    }
  }
}

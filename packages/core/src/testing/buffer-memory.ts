import { DirtyBitmap } from '../memory/dirty-bitmap.js';
import { type GuestMemory, RAM_WINDOW_BYTES, type RamBlock } from '../memory/guest-memory.js';
import { type PageRun, PageRunList } from '../memory/page-run.js';

/** A RAM block of a `BufferMemory`. */
export interface BufferBlock {
  readonly id: string;
  readonly guestPhysicalAddress: number;
  readonly byteLength: number;
}

/**
 * Guest memory in ordinary array buffers, with holes: a page is populated once it was written with `write`, or has a byte that is not
 * zero.
 *
 * @example
 * const memory = new BufferMemory([{ id: 'ram', guestPhysicalAddress: 0, byteLength: 2 ** 20 }]);
 * memory.write(0, 4096, Uint8Array.of(1, 2, 3));
 */
export class BufferMemory implements GuestMemory {
  readonly pageSize: number;
  readonly blocks: readonly (RamBlock & { readonly bytes: Uint8Array; readonly present: DirtyBitmap })[];

  constructor(blocks: readonly BufferBlock[], pageSize = 4096) {
    this.pageSize = pageSize;
    this.blocks = blocks.map(({ id, guestPhysicalAddress, byteLength }) => {
      const bytes = new Uint8Array(byteLength);
      const words = new Int32Array(bytes.buffer);
      const present = new DirtyBitmap(byteLength / pageSize);
      const pins = new Map<number, number>();
      const populated = (range: PageRun = { firstPage: 0, pageCount: present.pageCount }) => {
        // Pages that were written without `write` (by the engine at a destination) are found by their contents.
        for (let page = range.firstPage; page < range.firstPage + range.pageCount; page++) {
          if (!present.has(page) && !isZero(words, (page * pageSize) / 4, pageSize / 4)) present.set(page);
        }
        return present.runs(new PageRunList(), range.firstPage, range.pageCount);
      };
      return {
        id,
        guestPhysicalAddress,
        byteLength,
        bytes,
        present,
        populated,
        view(offset: number, length: number) {
          if (offset < 0 || offset + length > byteLength)
            throw new RangeError(`view ${offset}+${length} of ${byteLength}`);
          if (
            length > 0 &&
            Math.floor(offset / RAM_WINDOW_BYTES) !== Math.floor((offset + length - 1) / RAM_WINDOW_BYTES)
          ) {
            throw new RangeError('a view crosses a memory window');
          }
          return bytes.subarray(offset, offset + length);
        },
        pin({ firstPage, pageCount }: PageRun) {
          for (let page = firstPage; page < firstPage + pageCount; page++) pins.set(page, (pins.get(page) ?? 0) + 1);
          return () => {
            for (let page = firstPage; page < firstPage + pageCount; page++) pins.set(page, (pins.get(page) ?? 0) - 1);
          };
        },
        discard({ firstPage, pageCount }: PageRun) {
          for (const [page, count] of pins) {
            if (count > 0 && page >= firstPage && page < firstPage + pageCount) return false;
          }
          bytes.fill(0, firstPage * pageSize, (firstPage + pageCount) * pageSize);
          present.clearRange(firstPage, pageCount);
          return true;
        },
      };
    });
  }

  /** Writes guest memory; its pages become populated. Trackers do not notice this write: see `SoftwareTracker.mark`. */
  write(blockIndex: number, offset: number, data: Uint8Array): void {
    const block = this.blocks[blockIndex];
    if (block === undefined) throw new RangeError(`no block ${blockIndex}`);
    block.bytes.set(data, offset);
    const first = Math.floor(offset / this.pageSize);
    const last = Math.floor((offset + data.byteLength - 1) / this.pageSize);
    block.present.setRange(first, last - first + 1);
  }

  /** Whether all RAM is equal, byte by byte. */
  equals(other: BufferMemory): boolean {
    return this.firstDifference(other) === undefined;
  }

  /** The first page that differs; undefined when all RAM is equal. */
  firstDifference(other: BufferMemory): { readonly blockIndex: number; readonly page: number } | undefined {
    for (const [blockIndex, block] of this.blocks.entries()) {
      const theirs = other.blocks[blockIndex]?.bytes;
      if (theirs === undefined) return { blockIndex, page: 0 };
      const at = firstDifferentByte(block.bytes, theirs);
      if (at !== -1) return { blockIndex, page: Math.floor(at / this.pageSize) };
    }
    return undefined;
  }
}

function isZero(words: Int32Array, first: number, count: number): boolean {
  for (let i = first; i < first + count; i++) if (words[i] !== 0) return false;
  return true;
}

/** The offset of the first different byte; -1 when both are equal. */
function firstDifferentByte(a: Uint8Array, b: Uint8Array): number {
  if (a.byteLength !== b.byteLength) return Math.min(a.byteLength, b.byteLength);
  const aWords = new Int32Array(a.buffer, a.byteOffset, a.byteLength >>> 2);
  const bWords = new Int32Array(b.buffer, b.byteOffset, b.byteLength >>> 2);
  let word = 0;
  while (word < aWords.length && aWords[word] === bWords[word]) word++;
  for (let i = word * 4; i < a.byteLength; i++) if (a[i] !== b[i]) return i;
  return -1;
}

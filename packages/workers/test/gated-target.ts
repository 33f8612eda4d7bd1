import { GodwitError, type PageTarget } from '@godwit/core/pages';
import { PAGE } from './pattern-source.js';

/** Options of `gatedTarget`; goes to the thread as it is. */
export interface Gated {
  /** Where the pages of each block are kept, and how often each came. */
  readonly saved: readonly SharedArrayBuffer[];
  readonly counts: readonly SharedArrayBuffer[];
  /** While the number is 0, a write waits; at 2 it fails. */
  readonly gate: SharedArrayBuffer;
  /** No target at all. */
  readonly impossible?: boolean;
}

/** Keeps the pages in memory, when it may. */
export function gatedTarget({ saved, counts, gate, impossible }: Gated): PageTarget {
  if (impossible === true) throw new Error('there is no such target');
  const open = new Int32Array(gate);
  return {
    write(block, page, pageCount, bytes, offset) {
      Atomics.wait(open, 0, 0);
      if (Atomics.load(open, 0) === 2) throw new GodwitError('GODWIT_SYSCALL', 'the disk is full');
      const to = new Uint8Array(saved[block] as SharedArrayBuffer);
      to.set(bytes.subarray(offset, offset + pageCount * PAGE), page * PAGE);
      for (let i = 0; i < pageCount; i++) Atomics.add(new Int32Array(counts[block] as SharedArrayBuffer), page + i, 1);
      return pageCount * PAGE;
    },
    close() {},
  };
}

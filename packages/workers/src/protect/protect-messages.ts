import type { ErrorCode, ThreadRecipe } from '@godwit/core/pages';
import type { CopyBufferParts } from './copy-buffer.js';

/** Protected memory, as its threads need it. */
export interface ProtectedParts {
  /** The userfaultfd, which its owner closes after the threads have ended. */
  readonly uffd: number;
  readonly pageSize: number;
  /** For each block the address of its mapping and its size in bytes. */
  readonly blocks: readonly { readonly address: number; readonly byteLength: number }[];
  /** Bitmaps of the pages that are to be saved, and of those of them that were written since they were protected. */
  readonly owed: SharedBitmaps;
  readonly written: SharedBitmaps;
  /** `FaultStatistics.storage` */
  readonly statistics: SharedArrayBuffer;
  /** `ControlWord`s, of 32 bits, and `Figure`s, 64-bit floats. */
  readonly control: SharedArrayBuffer;
  readonly figures: SharedArrayBuffer;
  /** An event counter that wakes the fault thread. */
  readonly wake: number;
  readonly copies: CopyBufferParts;
  /** The recipe of the `PageTarget`. */
  readonly target: ThreadRecipe;
}

/** Storage of a `DirtyBitmap` for each block, and of its summary. */
export interface SharedBitmaps {
  readonly words: readonly SharedArrayBuffer[];
  readonly summaries: readonly SharedArrayBuffer[];
}

/** The indices of the words that the threads share beside the pages. */
export const ControlWord = {
  /** 1: the threads are to end. */
  stop: 0,
  /** One of `Mode`. The fault thread sets it, and the saving thread when it has failed. */
  mode: 1,
  /** 1: the fault thread is to protect again the pages that were written, and to begin `Mode.copying`. */
  freeze: 2,
  count: 3,
} as const;

/** The treatment of a page that is about to be written. */
export const Mode = {
  /** The page is noted, before the moment of the snapshot. */
  noting: 0,
  /** The page is copied first. */
  copying: 1,
  /** The page is only made writable, since the snapshot has failed. */
  lifting: 2,
} as const;

/** Numbers that one thread writes and others read. */
export const Figure = {
  /** The limit of bytes per second for pages that are saved in their order; 0: no limit. Written by the main thread. */
  limit: 0,
  /** Pages that are to be saved. Written by the main thread. */
  total: 1,
  /** Pages that were copied, and faults that waited for room. Written by the fault thread. */
  copied: 2,
  withoutRoom: 3,
  /** Pages that the saving thread has read itself, and bytes that it has written. */
  read: 4,
  written: 5,
  count: 6,
} as const;

export type ProtectRole = 'faults' | 'saving';

/** The only order to a thread. */
export interface ProtectOrder {
  readonly role: ProtectRole;
  readonly parts: ProtectedParts;
}

export type ProtectReport =
  /** The modules are loaded. */
  | { readonly type: 'ready' }
  /** The saving thread has its target. */
  | { readonly type: 'serving' }
  /** All memory is protected. */
  | { readonly type: 'protected' }
  /** This moment is that of the snapshot; `pages` pages were protected again. */
  | { readonly type: 'frozen'; readonly pages: number }
  /** Every page is saved. */
  | { readonly type: 'saved' }
  /** The thread ends, for this reason; its work is not done. */
  | { readonly type: 'failed'; readonly code: ErrorCode; readonly message: string };

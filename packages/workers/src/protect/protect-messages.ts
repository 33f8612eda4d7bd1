import type { ErrorCode, ThreadRecipe } from '@godwit/core/pages';
import type { CopyBufferParts } from './copy-buffer.js';

/** Protected memory, as its threads need it. */
export interface ProtectedParts {
  /** The userfaultfd; it stays its owner's, and open until the threads have ended. */
  readonly uffd: number;
  readonly pageSize: number;
  /** Each block: where it is mapped, and its bytes. */
  readonly blocks: readonly { readonly address: number; readonly byteLength: number }[];
  /** Bitmaps: pages that are to be saved, and of these the ones that were written since they were protected. */
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
  /** Makes the `PageTarget`. */
  readonly target: ThreadRecipe;
}

/** Storage of a `DirtyBitmap` for each block, and of its summary. */
export interface SharedBitmaps {
  readonly words: readonly SharedArrayBuffer[];
  readonly summaries: readonly SharedArrayBuffer[];
}

/** What the threads share beside the pages. */
export const ControlWord = {
  /** 1: end. */
  stop: 0,
  /** One of `Mode`. The fault thread sets it, and the saving thread when it has failed. */
  mode: 1,
  /** 1: the pages that were written are to be protected again, and `Mode.copying` is to begin. */
  freeze: 2,
  count: 3,
} as const;

/** What happens to a page that is about to be written. */
export const Mode = {
  /** It is noted: the moment of the snapshot is still to come. */
  noting: 0,
  /** It is copied first. */
  copying: 1,
  /** Nothing: the snapshot has failed. */
  lifting: 2,
} as const;

/** Numbers that one thread writes and others read. */
export const Figure = {
  /** Most bytes a second that are saved in turn; 0: no limit. By the main thread. */
  limit: 0,
  /** Pages that are to be saved. By the main thread. */
  total: 1,
  /** Pages that were copied, and faults that waited for room. By the fault thread. */
  copied: 2,
  withoutRoom: 3,
  /** Pages that the saving thread has read by itself, and bytes that it has written. */
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
  /** This moment is that of the snapshot; so many pages were protected again. */
  | { readonly type: 'frozen'; readonly pages: number }
  /** Every page is saved. */
  | { readonly type: 'saved' }
  /** The thread ends, for this reason; its work is not done. */
  | { readonly type: 'failed'; readonly code: ErrorCode; readonly message: string };

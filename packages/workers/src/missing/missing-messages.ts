import type { ErrorCode, ThreadRecipe } from '@godwit/core/pages';
import type { UrgentLink } from './link-pages.js';
import type { MissingPagesBuffers } from './missing-pages.js';

/** Memory in which pages are missing, as its threads need it. */
export interface ServedMemoryParts {
  /** The userfaultfd, which its owner closes after the threads have ended. */
  readonly uffd: number;
  readonly pageSize: number;
  /** For each block the address of its mapping and its size in bytes. */
  readonly blocks: readonly { readonly address: number; readonly byteLength: number }[];
  readonly missing: MissingPagesBuffers;
  /** For each block the bits of the pages that are loaded before the others; undefined: none. */
  readonly first?: readonly SharedArrayBuffer[] | undefined;
  /** `FaultStatistics.storage` */
  readonly statistics: SharedArrayBuffer;
  /** `ControlWord`s, of 32 bits. */
  readonly control: SharedArrayBuffer;
  /** An event counter that wakes the fault thread. */
  readonly wake: number;
  /** Undefined: pages are asked for over a link (`AskOver`), and other threads put them. */
  readonly source: ThreadRecipe | undefined;
}

/** The indices of the words that the threads share beside the pages. */
export const ControlWord = {
  /** 1: the threads are to end. */
  stop: 0,
  /** The number of `FaultOrder`s that were sent. */
  orders: 1,
  /** The block of the last fault, after which the loading thread goes on; -1: none. */
  hintBlock: 2,
  hintPage: 3,
  count: 4,
} as const;

export type ServiceRole = 'faults' | 'loading';

/** The only order to a thread; more come as `FaultOrder`s on the fault thread's port. */
export interface ServeOrder {
  readonly role: ServiceRole;
  readonly parts: ServedMemoryParts;
}

/** Bring these pages, and report when all of them are there. */
export interface PresentOrder {
  readonly id: number;
  readonly block: number;
  readonly page: number;
  readonly pageCount: number;
}

/**
 * Ask over this link from now on, also for pages that were asked for before; undefined: ask the main thread (`asked`).
 */
export interface AskOver {
  readonly generation: number;
  readonly link: UrgentLink | undefined;
}

export type FaultOrder = PresentOrder | AskOver;

export type ServiceReport =
  /** The modules are loaded. */
  | { readonly type: 'ready' }
  /** The thread has its source, and is at work. */
  | { readonly type: 'serving' }
  | { readonly type: 'present'; readonly id: number }
  /** A thread waits for this page; the main thread is to ask for it. */
  | { readonly type: 'asked'; readonly block: number; readonly page: number }
  /** The link of this generation is lost. */
  | { readonly type: 'link lost'; readonly generation: number; readonly code: ErrorCode; readonly message: string }
  /** A page that cannot be had. */
  | {
      readonly type: 'lost';
      readonly block: number;
      readonly page: number;
      readonly code: ErrorCode;
      readonly message: string;
    }
  /** No page is missing any more. */
  | { readonly type: 'whole' }
  /** The loading thread has brought every page or left it to another thread, and everything was checked. */
  | { readonly type: 'loaded' }
  /** The thread ends, for this reason; its work is not done. */
  | { readonly type: 'failed'; readonly code: ErrorCode; readonly message: string };

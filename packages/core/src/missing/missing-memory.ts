import type { GodwitError } from '../errors.js';
import type { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import type { ThreadRecipe } from '../thread-recipe.js';

/** How the page faults of a guest that runs before its memory is whole have gone so far. Times are in microseconds. */
export interface FaultStatus {
  /** Pages that have not come yet. */
  readonly pagesMissing: number;
  /** Pages that had to come in all. */
  readonly pagesTotal: number;
  /** Threads that waited for a page, one count each time. */
  readonly faults: number;
  /** Faults a second, since the last `status()` that was at least 100 ms ago. */
  readonly faultsPerSecond: number;
  /** Of `faults`: the page was never written at the source, and is zero. */
  readonly zeroFaults: number;
  /** Pages that came when they were there already, and were dropped. */
  readonly duplicatePages: number;
  /**
   * How long faults have taken, from when the serving thread knew of them until the page was there: element n counts those of 2^n to
   * 2^(n+1) us, the first those below 2 us (QEMU: `postcopy-latency-dist`).
   */
  readonly latencyDistribution: readonly number[];
  /** The longest of them. */
  readonly worstLatencyUs: number;
  /**
   * For how long each thread has waited for pages in all, the one under way included (QEMU: `postcopy-vcpu-blocktime`). `thread` is the
   * kernel's id of a thread; 0 for all of them where the kernel does not tell.
   */
  readonly blocked: readonly { readonly thread: number; readonly faults: number; readonly blockedUs: number }[];
  /** Pages that cannot be had: those who wait for them go on waiting. */
  readonly pagesLost: number;
  /** Milliseconds until all pages are there, at the rate so far; undefined while that is unknown. */
  readonly remainingMs: number | undefined;
}

/** Guest memory whose pages come while the guest runs. */
export interface MissingMemory {
  /**
   * Resolves once no page is missing and everything was checked. Rejects with `GODWIT_PAGES_MISSING` when pages cannot be had: the guest
   * is then incomplete for good, and stands where it touches one of these.
   */
  readonly whole: Promise<void>;
  /**
   * Begins to load the pages that nobody waits for. Called once the guest runs: until then the processors are for what it waits for.
   */
  loadRest(): void;
  /** How it goes; may be called at any time, also after `end`. */
  status(): FaultStatus;
  /** `GuestMemory.present`, while pages are missing. */
  present(block: number, offset: number, byteLength: number): Promise<void>;
  /**
   * Ends it, in bounded time. A page that is missing still is marked so that who touches it gets an error, never zeros: call it once
   * the guest will not run any more, or after `whole`.
   */
  end(): Promise<void>;
}

/** What is to be served. */
export interface PagesToServe {
  readonly memory: GuestMemory;
  /** The pages that are to come; all others are zero. Not kept. */
  readonly contents: DirtyBitmaps;
  /** Makes the `PageSource`, once on each thread. */
  readonly source: ThreadRecipe;
  /** Called once for each page that cannot be had. */
  readonly onLost?: (block: number, page: number, reason: GodwitError) => void;
}

/** Serves page faults on threads that stand ready: `faultThreads()` of `@godwit/workers`. */
export interface FaultService {
  /** Why this memory cannot be served, a sentence for each reason; empty when it can. */
  blockers(memory: GuestMemory): readonly string[];
  /**
   * Begins to serve page faults of the memory; the rest comes after `loadRest`. Whatever it contains is given up. When it resolves, no page is there, and any thread but those of the
   * service may touch the memory: it gets the page that is to come, or zeros where none is to.
   *
   * @throws GodwitError GODWIT_UNSUPPORTED, GODWIT_BLOCKED, GODWIT_INVALID_STATE
   */
  serve(request: PagesToServe): Promise<MissingMemory>;
}

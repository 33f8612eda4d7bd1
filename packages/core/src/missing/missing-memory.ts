import type { GodwitError } from '../errors.js';
import type { PageStream } from '../link/page-stream.js';
import type { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import type { ThreadRecipe } from '../thread-recipe.js';
import type { FaultStatus } from './fault-status.js';
import type { MissingSink } from './missing-sink.js';

/** Guest memory whose pages come while the guest runs. */
export interface MissingMemory {
  /**
   * Resolves once no page is missing and everything was checked. Rejects with `GODWIT_PAGES_MISSING` when pages cannot be had: the guest's
   * memory then stays incomplete, and a vCPU that touches one of these pages stops there.
   */
  readonly whole: Promise<void>;
  /**
   * Begins to load the pages for which no thread waits. Called once the guest runs: until then the processors are left to the guest's
   * start.
   */
  loadRest(): void;
  /** The statistics so far; may be called at any time, also after `end`. */
  status(): FaultStatus;
  /**
   * From now on asks over this stream for the pages for which a thread waits, including those for which one waits already. `onLost` is
   * called once when the stream breaks: threads then wait until this method is called with another stream. Only for memory whose
   * `PagesToServe.source` is undefined.
   */
  askOver(urgent: PageStream, onLost: (reason: GodwitError) => void): void;
  /** Makes the sink, on this thread, for pages that come on one channel without a request. */
  sink(): MissingSink;
  /** The recipe of the same sink on another thread. */
  readonly sinkRecipe: ThreadRecipe;
  /** Called when sinks have put pages: settles `whole` if these were the last missing ones. */
  arrived(): void;
  /** The pages that are missing now. */
  missing(): DirtyBitmaps;
  /** `GuestMemory.present`, while pages are missing. */
  present(block: number, offset: number, byteLength: number): Promise<void>;
  /**
   * Ends the service in bounded time. A page that is still missing is marked, so that a thread that touches it gets an error and never
   * zeros: call this method once the guest will not run any more, or after `whole`.
   */
  end(): Promise<void>;
  /** Ends the service while the source owns the guest: the memory becomes ordinary memory again, and a page that never came is zero. */
  undo(): Promise<void>;
}

/** The memory that a `FaultService` is to serve. */
export interface PagesToServe {
  readonly memory: GuestMemory;
  /** The pages that are to come. The bitmaps are not used after the call. */
  readonly contents: DirtyBitmaps;
  /** Those of them that are loaded before the others. The bitmaps are not used after the call. Default: none. */
  readonly first?: DirtyBitmaps | undefined;
  /** The other pages become `zero` (the default), or `stay` as they are. */
  readonly others?: 'zero' | 'stay';
  /** The recipe of the `PageSource`, which each thread makes once. Undefined: the pages come through sinks and `MissingMemory.askOver`. */
  readonly source: ThreadRecipe | undefined;
  /** Called once for each page that cannot be had. */
  readonly onLost?: (block: number, page: number, reason: GodwitError) => void;
}

/** Serves page faults on threads that are started in advance: `faultThreads()` of `@godwit/workers`. */
export interface FaultService {
  /** Resolves when the threads of the next service are ready; the guest is not paused before that. Never rejects. */
  ready(): Promise<void>;
  /**
   * Prepares for `serve` of this memory with pages that come over a link, as far as that changes nothing in the memory: the guest is paused
   * when `serve` is called. May be called any number of times. A failure shows when `serve` is called. Default: nothing is prepared.
   */
  prepare?(memory: GuestMemory): void;
  /** Why this memory cannot be served, a sentence for each reason; empty when it can. */
  blockers(memory: GuestMemory): readonly string[];
  /**
   * Begins to serve page faults of the memory; pages for which no thread waits come after `loadRest`. Previous contents of the pages in
   * `contents` are given up. Once the promise has resolved, any thread except those of the service may touch the memory: it waits until
   * the page has come.
   *
   * @throws GodwitError GODWIT_UNSUPPORTED, GODWIT_BLOCKED, GODWIT_INVALID_STATE
   */
  serve(request: PagesToServe): Promise<MissingMemory>;
}

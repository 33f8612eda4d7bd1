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
  /**
   * Asks over this stream for the pages that somebody waits for, from now on, those that are waited for already included. `onLost` is
   * called once when it breaks: who waits then goes on waiting, until it is called with another stream. Only where `PagesToServe.source`
   * is undefined.
   */
  askOver(urgent: PageStream, onLost: (reason: GodwitError) => void): void;
  /** Makes what puts pages of one channel that have come by themselves, on this thread. */
  sink(): MissingSink;
  /** Makes the same on another thread. */
  readonly sinkRecipe: ThreadRecipe;
  /** To be called when sinks have put pages: settles `whole` if these were the last. */
  arrived(): void;
  /** The pages that are missing now. */
  missing(): DirtyBitmaps;
  /** `GuestMemory.present`, while pages are missing. */
  present(block: number, offset: number, byteLength: number): Promise<void>;
  /**
   * Ends it, in bounded time. A page that is missing still is marked so that who touches it gets an error, never zeros: call it once
   * the guest will not run any more, or after `whole`.
   */
  end(): Promise<void>;
  /** Ends it while the guest is somebody else's: the memory is as any other again, and a page that never came is zero. */
  undo(): Promise<void>;
}

/** What is to be served. */
export interface PagesToServe {
  readonly memory: GuestMemory;
  /** The pages that are to come. Not kept. */
  readonly contents: DirtyBitmaps;
  /** What becomes of the other pages: `zero` (the default), or they `stay` as they are. */
  readonly others?: 'zero' | 'stay';
  /** Makes the `PageSource`, once on each thread. Undefined: the pages come by sinks, and by `MissingMemory.askOver`. */
  readonly source: ThreadRecipe | undefined;
  /** Called once for each page that cannot be had. */
  readonly onLost?: (block: number, page: number, reason: GodwitError) => void;
}

/** Serves page faults on threads that stand ready: `faultThreads()` of `@godwit/workers`. */
export interface FaultService {
  /** Resolves when the threads of the next service stand ready: the guest is not paused before. Never rejects. */
  ready(): Promise<void>;
  /** Why this memory cannot be served, a sentence for each reason; empty when it can. */
  blockers(memory: GuestMemory): readonly string[];
  /**
   * Begins to serve page faults of the memory; the rest comes after `loadRest`. What the pages of `contents` have had is given up. When it
   * resolves, any thread but those of the service may touch the memory: it gets the page that is to come.
   *
   * @throws GodwitError GODWIT_UNSUPPORTED, GODWIT_BLOCKED, GODWIT_INVALID_STATE
   */
  serve(request: PagesToServe): Promise<MissingMemory>;
}

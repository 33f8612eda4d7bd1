import type { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import type { ThreadRecipe } from '../thread-recipe.js';
import type { ProtectionStatus } from './protection-status.js';

/** What is to be protected, and where its pages go. */
export interface PagesToProtect {
  readonly memory: GuestMemory;
  /** The populated pages. Not kept. Those that are populated later are found by `freeze`. */
  readonly contents: DirtyBitmaps;
  /** Makes the `PageTarget` on the thread that saves. */
  readonly target: ThreadRecipe;
}

/**
 * Guest memory that is protected against writing, so that each page is saved as it was at one moment. Until `freeze` a page that is written
 * is only noted; from then on it is copied before its first write.
 */
export interface ProtectedMemory {
  /**
   * Resolves when every page is saved. Rejects when one cannot be, by which time nobody waits for a page any more: writes go through, and
   * what was saved is worth nothing.
   */
  readonly saved: Promise<void>;
  /**
   * Makes this moment that of the snapshot: protects again what was written or populated since. To be called while nothing writes the
   * memory, and nothing may until it has resolved. The pages are saved from then on.
   *
   * @returns how many pages were protected again
   */
  freeze(): Promise<number>;
  /** Most bytes a second that are saved of what nobody waits for; 0: no limit. */
  limit(bytesPerSecond: number): void;
  /** How it goes; may be called at any time, also after `end`. */
  status(): ProtectionStatus;
  /**
   * Lifts the protection, whatever was saved: whoever waits for a page goes on before this returns. Resolves when the threads have ended, as
   * late as the write to a disk that one of them is in; until then it may read the memory. Never rejects.
   */
  end(): Promise<void>;
}

/** Protects guest memory by threads that stand ready: `writeProtection()` of `@godwit/workers`. */
export interface WriteProtection {
  /** Resolves when the threads of the next snapshot stand ready. Never rejects. */
  ready(): Promise<void>;
  /** Why this memory cannot be protected now, a sentence for each reason; empty when it can. */
  blockers(memory: GuestMemory): readonly string[];
  /**
   * Protects the memory, while the guest runs; resolves when all of it is. Who writes a page of it waits for the thread that serves the
   * fault, which waits for no event loop.
   *
   * @throws GodwitError GODWIT_UNSUPPORTED, GODWIT_BLOCKED, GODWIT_INVALID_STATE: nothing is protected then
   */
  protect(request: PagesToProtect): Promise<ProtectedMemory>;
}

import type { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import type { ThreadRecipe } from '../thread-recipe.js';
import type { ProtectionStatus } from './protection-status.js';

/** The memory to protect, and the target of its pages. */
export interface PagesToProtect {
  readonly memory: GuestMemory;
  /** The populated pages. The bitmaps are not used after the call. `freeze` finds the pages that are populated later. */
  readonly contents: DirtyBitmaps;
  /** The recipe of the `PageTarget`, which the thread that saves makes. */
  readonly target: ThreadRecipe;
}

/**
 * Guest memory that is protected against writing, so that all pages are saved as they were at one moment. Until `freeze` a write to a page
 * is only noted; after it a page is copied before its first write.
 */
export interface ProtectedMemory {
  /**
   * Resolves when every page is saved. Rejects when a page cannot be saved: no thread waits for a page any more by then, writes go through,
   * and the snapshot is worthless.
   */
  readonly saved: Promise<void>;
  /**
   * Makes this moment the moment of the snapshot: protects again the pages that were written or populated since `protect`. Nothing may
   * write the memory from the call until the promise has resolved. Pages are saved from then on.
   *
   * @returns the number of pages that were protected again
   */
  freeze(): Promise<number>;
  /** Limits the bytes per second that are saved of pages for which no thread waits; 0: no limit. */
  limit(bytesPerSecond: number): void;
  /** The progress so far; may be called at any time, also after `end`. */
  status(): ProtectionStatus;
  /**
   * Lifts the protection, whatever was saved: threads that wait for a page go on before this call returns. Resolves when the service's
   * threads have ended, which may wait for a write to disk; until then they may read the memory. Never rejects.
   */
  end(): Promise<void>;
}

/** Protects guest memory by threads that are started in advance: `writeProtection()` of `@godwit/workers`. */
export interface WriteProtection {
  /** Resolves when the threads of the next snapshot are ready. Never rejects. */
  ready(): Promise<void>;
  /** Why this memory cannot be protected now, a sentence for each reason; empty when it can. */
  blockers(memory: GuestMemory): readonly string[];
  /**
   * Protects the memory while the guest runs; resolves when all of it is protected. A thread that writes a page waits for the thread that
   * serves the fault, which waits for no event loop.
   *
   * @throws GodwitError GODWIT_UNSUPPORTED, GODWIT_BLOCKED, GODWIT_INVALID_STATE: nothing is protected then
   */
  protect(request: PagesToProtect): Promise<ProtectedMemory>;
}

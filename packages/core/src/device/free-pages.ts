import type { DirtyBitmaps } from '../memory/dirty-bitmaps.js';

/**
 * Names the pages of a guest whose contents nobody needs, since the guest has told its balloon that they are free. Round 1 leaves them out
 * as it does holes, so that the destination has zeros there.
 *
 * @example
 * const vm: MigratableVm = {
 *   ...machine,
 *   freePages: { name: 'balloon', collect: (into, signal) => balloon.askForFreePages((page) => into.at(0).set(page), signal) },
 * };
 */
export interface FreePages {
  /** In events and warnings. */
  readonly name: string;
  /**
   * Source: asks the guest for its free pages, and sets their bits in `into`. The engine calls it before round 1, with the trackers started
   * and the guest running, so that every write from then on is seen: a named page that is written later is dirty, and is sent. It does not
   * call it again until it begins anew with everything. Names a page only if the guest has said since the call that it was free, and none
   * of a guest that counts on what is in its free pages (page poisoning, or zeroing them when they are freed).
   *
   * Resolves when the guest has named its last one. When `signal` aborts, the time (`MigrateOptions.freePagesTimeoutMs`) is over: bits that
   * are set by then count, and no more are set. When it rejects, no page counts as named, and a warning is emitted.
   */
  collect(into: DirtyBitmaps, signal: AbortSignal): Promise<void>;
}

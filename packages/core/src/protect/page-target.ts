/**
 * Where the pages of a background snapshot go, on the thread that saves them: a snapshot's file. That thread makes it from a
 * `ThreadRecipe`. Its calls may wait for a disk: no other thread waits for this one, unless the buffer for copies is full.
 */
export interface PageTarget {
  /**
   * Saves pages of a block, each of which comes once, in any order. Their bytes begin at `offset` of `bytes`, at a multiple of the host's
   * page size in memory, and are borrowed until the call returns.
   *
   * @returns the number of bytes that were written: pages that are zero may take none
   * @throws GodwitError when the pages cannot be saved: nothing more is saved after that
   */
  write(block: number, page: number, pageCount: number, bytes: Uint8Array, offset: number): number;
  /** Gives back what the target holds. Called once, on its own thread, when no call is under way. */
  close(): void;
}

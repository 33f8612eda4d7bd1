/**
 * Where the pages of a background snapshot go, on the thread that saves them: a snapshot's file. It is made there from a `ThreadRecipe`.
 * Its calls may wait for a disk: nobody else waits for this thread, unless the buffer for copies is full.
 */
export interface PageTarget {
  /**
   * Saves pages of a block, each of which comes once, in any order. Their bytes begin at `offset` of `bytes`, which are borrowed until it
   * returns, and begin at a multiple of the host's page size in memory.
   *
   * @returns how many bytes were written: pages that are zero may take none
   * @throws GodwitError when they cannot be saved: nothing more is saved then
   */
  write(block: number, page: number, pageCount: number, bytes: Uint8Array, offset: number): number;
  /** Gives back what the target holds. Called once, on its own thread, when no call is under way. */
  close(): void;
}

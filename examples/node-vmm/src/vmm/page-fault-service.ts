import type { FaultService, GuestMemory, MissingMemory, PagesToServe } from '@godwit/core';
import { type FaultThreads, faultThreads } from '@godwit/workers';

/**
 * Serves the page faults of a guest that runs here before its memory has come. Its two threads are started for the first guest that needs
 * them, since most guests arrive with all pages.
 */
export class PageFaultService implements FaultService {
  #threads: FaultThreads | undefined;

  ready(): Promise<void> {
    return this.#started().ready();
  }

  blockers(memory: GuestMemory): readonly string[] {
    return this.#started().blockers(memory);
  }

  serve(request: PagesToServe): Promise<MissingMemory> {
    return this.#started().serve(request);
  }

  /** Ends the idle threads. */
  async close(): Promise<void> {
    await this.#threads?.close();
  }

  #started(): FaultThreads {
    this.#threads ??= faultThreads();
    return this.#threads;
  }
}

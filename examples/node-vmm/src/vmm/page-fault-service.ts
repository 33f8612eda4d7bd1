import type { FaultService, GuestMemory, MissingMemory, PagesToServe } from '@godwit/core';
import { type FaultThreads, faultThreads } from '@godwit/workers';

/**
 * Serves the page faults of a guest that runs here before its memory has come. Its two threads are started for the first guest that takes
 * them: most guests come whole.
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

  /** Ends the threads that serve nobody. */
  async close(): Promise<void> {
    await this.#threads?.close();
  }

  #started(): FaultThreads {
    this.#threads ??= faultThreads();
    return this.#threads;
  }
}

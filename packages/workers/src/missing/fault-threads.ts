import {
  type DirtyBitmaps,
  type FaultService,
  GodwitError,
  type GuestMemory,
  type MissingMemory,
  type PageRun,
  type PagesToServe,
} from '@godwit/core';
import { type MappedGuestMemory, SharedUserfaultfd } from '@godwit/linux';
import { ServedMemory } from './served-memory.js';
import { type ServiceThread, startServiceThread, stopThreads } from './service-thread-pool.js';
import { memoryBlockers, rangesOf, servable, servingBlockers } from './serving-blockers.js';

/**
 * Threads that bring the pages of guest memory while the guest runs in it: one serves page faults, the other loads the rest. They are
 * started in advance, since starting them takes 100 ms or more; each service has two of its own.
 *
 * @example
 * const faults = faultThreads();
 * const incoming = receive(await listenOn(file({ path })), { prepare, run: 'at once', faults });
 */
export class FaultThreads implements FaultService {
  #idle: readonly [ServiceThread, ServiceThread] | undefined;
  #closed = false;

  constructor() {
    this.#idle = pair();
  }

  /** Resolves when the threads of the next service are ready. `serve` waits for this by itself. */
  async ready(): Promise<void> {
    if (!this.#closed) this.#idle ??= pair();
    await Promise.all(this.#idle?.map(({ ready }) => ready) ?? []);
  }

  blockers(memory: GuestMemory): readonly string[] {
    return servingBlockers(memory);
  }

  async serve(request: PagesToServe): Promise<MissingMemory> {
    if (this.#closed)
      throw new GodwitError('GODWIT_INVALID_STATE', 'the threads that serve missing pages have been stopped');
    // Only the reasons in the memory are checked: those of the host show when the calls below fail.
    const reasons = memoryBlockers(request.memory);
    if (reasons.length > 0) {
      throw new GodwitError('GODWIT_BLOCKED', `the guest cannot run before its memory is whole: ${reasons.join('; ')}`);
    }
    const memory = servable(request.memory) as MappedGuestMemory;
    const threads = this.#idle ?? pair();
    this.#idle = undefined;
    await Promise.all(threads.map(({ ready }) => ready));
    let user: SharedUserfaultfd | undefined;
    let served: ServedMemory | undefined;
    try {
      user = SharedUserfaultfd.join(rangesOf(memory), 'missing');
      // The contents are given up after the registration, so that no page can be populated again meanwhile.
      giveUpContents(memory, request.others === 'stay' ? request.contents : undefined);
      served = new ServedMemory(memory, request, user, threads);
      await served.serving();
      // Two more threads are started for the next guest, once this guest needs no processor time for its pages.
      const again = (): void => {
        if (!this.#closed) this.#idle ??= pair();
      };
      served.whole.then(again, again);
      return served;
    } catch (error) {
      // No guest has run: the memory is ordinary memory again, in which no page is marked as one that never comes.
      await served?.undo();
      if (served === undefined) {
        user?.leave();
        await stopThreads(threads);
      }
      throw error;
    }
  }

  /** Ends the idle threads. Threads that serve end with their service. */
  async close(): Promise<void> {
    this.#closed = true;
    const idle = this.#idle;
    this.#idle = undefined;
    if (idle !== undefined) await stopThreads(idle);
  }
}

/**
 * Starts `FaultThreads`; see there.
 *
 * @example
 * const faults = faultThreads(); // when the program starts: its threads take 100 ms to stand ready
 * const incoming = receive(links, { prepare, run: 'at once', faults });
 */
export function faultThreads(): FaultThreads {
  return new FaultThreads();
}

function pair(): readonly [ServiceThread, ServiceThread] {
  const faults = startServiceThread('godwit page faults');
  // Only the code of the one that a vCPU waits for is compiled beforehand.
  faults.worker.postMessage({ warmUp: true });
  return [faults, startServiceThread('godwit page loading')];
}

/** Gives back the memory behind the pages, or those of `only`: from now on they are missing. */
function giveUpContents({ blocks }: MappedGuestMemory, only?: DirtyBitmaps): void {
  for (const [index, block] of blocks.entries()) {
    for (const run of block.populated()) {
      if (only === undefined) discard(block, run);
      else for (const part of setRuns(only.at(index), run)) discard(block, part);
    }
  }
}

function discard(block: MappedGuestMemory['blocks'][number], run: PageRun): void {
  if (block.discard(run)) return;
  throw new GodwitError(
    'GODWIT_BLOCKED',
    `pages ${run.firstPage} to ${run.firstPage + run.pageCount - 1} of RAM block "${block.id}" are pinned, and cannot come anew`,
  );
}

/** The runs of set bits within a run of pages. */
function* setRuns(bitmap: DirtyBitmaps['blocks'][number], { firstPage, pageCount }: PageRun): Generator<PageRun> {
  const end = firstPage + pageCount;
  for (let first = bitmap.nextDirty(firstPage, end); first !== -1; ) {
    const stop = Math.min(bitmap.nextClean(first), end);
    yield { firstPage: first, pageCount: stop - first };
    if (stop >= end) return;
    first = bitmap.nextDirty(stop, end);
  }
}

import { type FaultService, GodwitError, type GuestMemory, type MissingMemory, type PagesToServe } from '@godwit/core';
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
  /** A service that stands ready to begin, for pages that come over a link. */
  #prepared: ServedMemory | undefined;
  #closed = false;

  constructor() {
    this.#idle = pair();
  }

  /** Resolves when the threads of the next service are ready. `serve` waits for this by itself. */
  async ready(): Promise<void> {
    if (!this.#closed && this.#prepared === undefined) this.#idle ??= pair();
    await Promise.all(this.#idle?.map(({ ready }) => ready) ?? []);
  }

  /** The process may end while a service is only prepared. */
  prepare(memory: GuestMemory): void {
    if (this.#closed || (this.#prepared?.usable === true && this.#prepared.memory === memory)) return;
    void this.#dropPrepared();
    if (memoryBlockers(memory).length > 0) return;
    try {
      this.#prepared = this.#make(servable(memory) as MappedGuestMemory, undefined, this.#takeThreads());
      this.#prepared.serving().catch(() => {});
    } catch {
      // `serve` makes the service anew, and reports what fails then.
    }
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
    const served = (await this.#begunPrepared(memory, request)) ?? (await this.#begunNew(memory, request));
    // Two more threads are started for the next guest, once this guest needs no processor time for its pages.
    const again = (): void => {
      if (!this.#closed && this.#prepared === undefined) this.#idle ??= pair();
    };
    served.whole.then(again, again);
    return served;
  }

  /** Ends the idle threads. Threads that serve end with their service. */
  async close(): Promise<void> {
    this.#closed = true;
    const idle = this.#idle;
    this.#idle = undefined;
    await Promise.all([this.#dropPrepared(), idle && stopThreads(idle)]);
  }

  /** Begins the prepared service; undefined when there is none for this request, or it could not begin. */
  async #begunPrepared(memory: MappedGuestMemory, request: PagesToServe): Promise<ServedMemory | undefined> {
    const served = this.#prepared;
    if (served?.usable !== true || served.memory !== memory || request.source !== undefined) return undefined;
    this.#prepared = undefined;
    try {
      await served.serving();
      served.begin(request);
      return served;
    } catch {
      // The memory has got another userfaultfd meanwhile, or a thread has failed; another service may do better.
      await served.undo();
      return undefined;
    }
  }

  async #begunNew(memory: MappedGuestMemory, request: PagesToServe): Promise<ServedMemory> {
    await this.#dropPrepared();
    const threads = this.#takeThreads();
    await Promise.all(threads.map(({ ready }) => ready));
    let served: ServedMemory | undefined;
    try {
      served = this.#make(memory, request.source, threads);
      await served.serving();
      served.begin(request);
      return served;
    } catch (error) {
      // No guest has run: the memory is ordinary memory again, in which no page is marked as one that never comes.
      await served?.undo();
      throw error;
    }
  }

  #takeThreads(): readonly [ServiceThread, ServiceThread] {
    const threads = this.#idle ?? pair();
    this.#idle = undefined;
    return threads;
  }

  /** Makes a service that has not begun; when that fails, its threads end. */
  #make(
    memory: MappedGuestMemory,
    source: PagesToServe['source'],
    threads: readonly [ServiceThread, ServiceThread],
  ): ServedMemory {
    let user: SharedUserfaultfd | undefined;
    try {
      user = SharedUserfaultfd.reserve(rangesOf(memory), 'missing');
      return new ServedMemory(memory, source, user, threads);
    } catch (error) {
      user?.leave();
      void stopThreads(threads);
      throw error;
    }
  }

  async #dropPrepared(): Promise<void> {
    const served = this.#prepared;
    this.#prepared = undefined;
    await served?.undo();
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
  const faults = startServiceThread('godwit page faults', 'service-thread', true);
  // Only the code of the one that a vCPU waits for is compiled beforehand.
  faults.worker.postMessage({ warmUp: true });
  return [faults, startServiceThread('godwit page loading')];
}

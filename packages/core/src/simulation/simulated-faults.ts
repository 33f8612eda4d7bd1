import type { Clock } from '../clock.js';
import { checkRuns } from '../destination/run-check.js';
import { GodwitError } from '../errors.js';
import type { PageStream } from '../link/page-stream.js';
import { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import type { FaultStatus } from '../missing/fault-status.js';
import type { FaultService, MissingMemory, PagesToServe } from '../missing/missing-memory.js';
import type { MissingSink } from '../missing/missing-sink.js';
import { ANSWER_ROUND } from '../source/answer-requests.js';
import type { ThreadRecipe } from '../thread-recipe.js';
import type { Touches } from './touches.js';

/** The post-copy phase at the destination. Times are milliseconds of the simulation. */
export interface SimulatedPostcopy {
  /** The time at which the guest began to run at the destination, and for how long pages were missing from then on. */
  readonly fromMs: number;
  readonly ms: number;
  /** Bytes of RAM that were missing when the guest began to run there. */
  readonly bytes: number;
  /** Guest pages that the guest has waited for. */
  readonly faults: number;
  /** The total time for which the guest has waited for these pages, one after the other. */
  readonly blockedMs: number;
}

export interface FaultsParts {
  readonly clock: Clock;
  /** The pages that the guest touches once it runs at the destination. */
  readonly touches: () => Touches;
  /** Pages of the guest that a page of the simulation stands for. */
  readonly guestPages: number;
  /** Milliseconds that a page fault takes apart from the link. */
  readonly faultMs: number;
  /** Milliseconds from one end of the link to the other, now. */
  readonly travelMs: () => number;
}

/**
 * Serves the page faults of a simulated guest: pages are asked for over the simulated link, as a VMM's threads would.
 */
export class SimulatedFaults implements FaultService {
  readonly #parts: FaultsParts;
  #served: SimulatedMissing | undefined;

  constructor(parts: FaultsParts) {
    this.#parts = parts;
  }

  /** The report of post-copy; `undefined` if the guest never ran with pages missing. */
  get report(): SimulatedPostcopy | undefined {
    return this.#served?.report;
  }

  async ready(): Promise<void> {}

  blockers(): readonly string[] {
    return [];
  }

  async serve(request: PagesToServe): Promise<MissingMemory> {
    this.#served = new SimulatedMissing(request, this.#parts);
    return this.#served;
  }
}

/** A page that the guest waits for. */
interface Wait {
  readonly block: number;
  readonly page: number;
  readonly sinceMs: number;
  readonly resolve: () => void;
}

/** The memory of a simulated guest while pages are missing: the missing pages, and the waits for them. */
export class SimulatedMissing implements MissingMemory {
  readonly whole: Promise<void>;
  readonly sinkRecipe: ThreadRecipe = { module: undefined, make: 'simulated', options: this };
  readonly #memory: GuestMemory;
  readonly #parts: FaultsParts;
  readonly #missing: DirtyBitmaps;
  readonly #total: number;
  readonly #over = new AbortController();
  #resolve: () => void = () => {};
  #wait: Wait | undefined;
  #urgent: PageStream | undefined;
  #onLost: (reason: GodwitError) => void = () => {};
  #duplicates = 0;
  #faults = 0;
  #blockedMs = 0;
  #began: number | undefined;
  #ended: number | undefined;

  constructor({ memory, contents }: PagesToServe, parts: FaultsParts) {
    this.#memory = memory;
    this.#parts = parts;
    this.#missing = new DirtyBitmaps(memory);
    this.#missing.or(contents);
    this.#total = contents.count();
    this.whole = new Promise((resolve) => {
      this.#resolve = resolve;
    });
  }

  get report(): SimulatedPostcopy | undefined {
    if (this.#began === undefined) return undefined;
    const end = this.#ended ?? this.#parts.clock.now();
    return {
      fromMs: this.#began,
      ms: end - this.#began,
      bytes: this.#total * this.#memory.pageSize,
      faults: this.#faults,
      blockedMs: this.#blockedMs,
    };
  }

  /** Runs the guest from now on: it touches pages, and waits where it touches a missing one. */
  loadRest(): void {
    this.#began = this.#parts.clock.now();
    void this.#run().catch(() => {});
  }

  status(): FaultStatus {
    const pagesMissing = this.#missing.count();
    return {
      ...{ pagesMissing, pagesTotal: this.#total, faults: this.#faults, duplicatePages: this.#duplicates },
      ...{ faultsPerSecond: 0, zeroFaults: 0, latencyDistribution: [], worstLatencyUs: 0, pagesLost: 0 },
      blocked: [{ thread: 0, faults: this.#faults, blockedUs: this.#blockedMs * 1000 }],
      waitingUs: this.#wait === undefined ? 0 : (this.#parts.clock.now() - this.#wait.sinceMs) * 1000,
      remainingMs: undefined,
    };
  }

  askOver(urgent: PageStream, onLost: (reason: GodwitError) => void): void {
    if (this.#over.signal.aborted) return;
    this.#urgent = urgent;
    this.#onLost = onLost;
    void this.#read(urgent);
    if (this.#wait !== undefined) this.#ask(this.#wait);
  }

  sink(): MissingSink {
    throw new GodwitError('GODWIT_INTERNAL', 'a simulated page channel counts its pages, and puts none');
  }

  /** Takes pages that have come: flat [first page, page count, ...]. */
  came(block: number, runs: ArrayLike<number>): void {
    const missing = this.#missing.at(block);
    for (let i = 0; i < runs.length; i += 2) {
      const [first, count] = [runs[i] as number, runs[i + 1] as number];
      const before = missing.countRange(first, count);
      missing.clearRange(first, count);
      this.#duplicates += count - before;
    }
    const wait = this.#wait;
    if (wait?.block !== block || missing.has(wait.page)) return;
    this.#wait = undefined;
    wait.resolve();
  }

  arrived(): void {
    if (!this.#missing.isEmpty() || this.#over.signal.aborted) return;
    this.#ended = this.#parts.clock.now();
    this.#over.abort();
    this.#resolve();
  }

  missing(): DirtyBitmaps {
    const copy = new DirtyBitmaps(this.#memory);
    copy.or(this.#missing);
    return copy;
  }

  async present(): Promise<void> {}

  async end(): Promise<void> {
    this.#over.abort();
  }

  async undo(): Promise<void> {
    this.#over.abort();
  }

  async #run(): Promise<void> {
    const { clock, touches: touchesOf, guestPages, faultMs, travelMs } = this.#parts;
    const { signal } = this.#over;
    const touches = touchesOf();
    for (;;) {
      for (const { block, page } of await touches.next(signal)) {
        if (signal.aborted) return;
        if (!this.#missing.at(block).has(page)) continue;
        const start = clock.now();
        this.#faults += guestPages;
        // A page of the simulation stands for several pages of the guest, which the guest touches one after the other.
        const others = (guestPages - 1) * (faultMs + 2 * travelMs());
        await this.#fault(block, page);
        await clock.sleep(faultMs + others, signal).catch(() => {});
        this.#blockedMs += clock.now() - start;
      }
    }
  }

  #fault(block: number, page: number): Promise<void> {
    return new Promise((resolve) => {
      this.#wait = { block, page, sinceMs: this.#parts.clock.now(), resolve };
      this.#ask(this.#wait);
    });
  }

  #ask({ block, page }: Wait): void {
    const urgent = this.#urgent;
    urgent?.write({ type: 'requestPages', block, page, pages: 1 }).catch((error: unknown) => this.#lose(urgent, error));
  }

  async #read(urgent: PageStream): Promise<void> {
    try {
      for (;;) {
        const received = await urgent.read();
        if (received === null) throw new GodwitError('GODWIT_LINK_LOST', 'the source closed the urgent channel');
        const { frame } = received;
        if (frame.type !== 'pages' || frame.round !== ANSWER_ROUND) {
          throw new GodwitError('GODWIT_PROTOCOL', `the source sent "${frame.type}" on the urgent channel`);
        }
        checkRuns(this.#memory, frame.block, frame.runs, frame.type);
        await urgent.skipPayload();
        if (this.#urgent !== urgent || this.#over.signal.aborted) return;
        this.came(frame.block, frame.runs);
        this.arrived();
      }
    } catch (error) {
      this.#lose(urgent, error);
    }
  }

  #lose(urgent: PageStream, error: unknown): void {
    if (this.#urgent !== urgent || this.#over.signal.aborted) return;
    this.#urgent = undefined;
    this.#onLost(GodwitError.wrap(error, 'GODWIT_LINK_LOST', 'the urgent channel failed'));
  }
}

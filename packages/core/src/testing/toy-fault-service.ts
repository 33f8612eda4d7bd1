import { checkRuns } from '../destination/run-check.js';
import { GodwitError } from '../errors.js';
import type { PageStream } from '../link/page-stream.js';
import { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import type { FaultStatus } from '../missing/fault-status.js';
import type { FaultService, MissingMemory, PagesToServe } from '../missing/missing-memory.js';
import { type MissingSink, putRuns } from '../missing/missing-sink.js';
import { MAXIMUM_PAYLOAD } from '../protocol/negotiate.js';
import { ANSWER_ROUND } from '../source/answer-requests.js';

/** The bytes of a missing page: a reader that gets them has read too early. */
const ABSENT = 0xdb;

interface Wait {
  readonly block: number;
  readonly page: number;
  readonly resolve: () => void;
}

/**
 * Serves missing pages of any memory on the thread of the test: a test touches a page by `ToyMissing.touch`, as a vCPU does. There
 * are no page faults, so that no other access waits for a page.
 *
 * @example
 * const faults = new ToyFaultService();
 * const incoming = receive(link.listener, { prepare: () => vm, faults });
 * await faults.served.at(-1)?.touch(0, 10); // waits for page 10, as a vCPU does
 */
export class ToyFaultService implements FaultService {
  /** The reasons that `blockers` returns. */
  reasons: readonly string[] = [];
  /** Every memory that was served, in order. */
  readonly served: ToyMissing[] = [];
  /** Called before `serve` begins; may throw or return a promise. */
  onServe: () => void | Promise<void> = () => {};

  async ready(): Promise<void> {}

  blockers(): readonly string[] {
    return this.reasons;
  }

  async serve(request: PagesToServe): Promise<MissingMemory> {
    await this.onServe();
    const missing = new ToyMissing(request);
    this.served.push(missing);
    return missing;
  }
}

/**
 * Memory of a `ToyFaultService`.
 *
 * @example
 * const [missing] = faults.served;
 * await missing?.touch(0, 10);
 */
export class ToyMissing implements MissingMemory {
  readonly whole: Promise<void>;
  readonly sinkRecipe = { module: undefined, make: 'none', options: undefined };
  /** Pages that came although they were already there. */
  duplicates = 0;
  /** Pages for which `touch` has waited. */
  faults = 0;
  ended: 'no' | 'ended' | 'undone' = 'no';
  readonly #memory: GuestMemory;
  readonly #missing: DirtyBitmaps;
  readonly #total: number;
  #waits: Wait[] = [];
  #urgent: PageStream | undefined;
  #onLost: (reason: GodwitError) => void = () => {};
  #resolve: () => void = () => {};

  constructor({ memory, contents }: PagesToServe) {
    this.#memory = memory;
    this.#missing = new DirtyBitmaps(memory);
    this.#missing.or(contents);
    this.#total = contents.count();
    this.#fill(ABSENT);
    this.whole = new Promise((resolve) => {
      this.#resolve = resolve;
    });
  }

  /** Touches a page as a vCPU does: resolves once it is there. */
  touch(block: number, page: number): Promise<void> {
    if (!this.#missing.at(block).has(page)) return Promise.resolve();
    this.faults++;
    return new Promise((resolve) => {
      this.#waits.push({ block, page, resolve });
      this.#ask(block, page);
    });
  }

  loadRest(): void {}

  status(): FaultStatus {
    const pagesMissing = this.#missing.count();
    return {
      ...{ pagesMissing, pagesTotal: this.#total, faults: this.faults, duplicatePages: this.duplicates },
      ...{ faultsPerSecond: 0, zeroFaults: 0, latencyDistribution: [], worstLatencyUs: 0, blocked: [], pagesLost: 0 },
      // The service has no clock, so that a wait counts as endless.
      ...{ waitingUs: this.#waits.length === 0 ? 0 : Number.POSITIVE_INFINITY, remainingMs: undefined },
    };
  }

  askOver(urgent: PageStream, onLost: (reason: GodwitError) => void): void {
    if (this.ended !== 'no') return;
    this.#urgent = urgent;
    this.#onLost = onLost;
    void this.#read(urgent);
    for (const { block, page } of this.#waits) this.#ask(block, page);
  }

  sink(): MissingSink {
    const bytes = new Uint8Array(MAXIMUM_PAYLOAD);
    return {
      bytes,
      put: (block, page, pageCount, offset) => this.#put(block, page, pageCount, bytes.subarray(offset)),
      putZero: (block, page, pageCount) => this.#put(block, page, pageCount, undefined),
    };
  }

  arrived(): void {
    this.#waits = this.#waits.filter(({ block, page, resolve }) => {
      const absent = this.#missing.at(block).has(page);
      if (!absent) resolve();
      return absent;
    });
    if (!this.#missing.isEmpty()) return;
    this.ended = 'ended';
    this.#resolve();
  }

  missing(): DirtyBitmaps {
    const copy = new DirtyBitmaps(this.#missing);
    copy.or(this.#missing);
    return copy;
  }

  async present(block: number, offset: number, byteLength: number): Promise<void> {
    const { pageSize } = this.#memory;
    const last = Math.floor((offset + byteLength - 1) / pageSize);
    for (let page = Math.floor(offset / pageSize); page <= last; page++) await this.touch(block, page);
  }

  async end(): Promise<void> {
    this.ended = 'ended';
  }

  async undo(): Promise<void> {
    this.ended = 'undone';
    this.#fill(0);
  }

  #ask(block: number, page: number): void {
    const urgent = this.#urgent;
    urgent?.write({ type: 'requestPages', block, page, pages: 1 }).catch((error: unknown) => this.#lose(urgent, error));
  }

  async #read(urgent: PageStream): Promise<void> {
    const sink = this.sink();
    try {
      for (;;) {
        const received = await urgent.read();
        if (received === null) throw new GodwitError('GODWIT_LINK_LOST', 'the source closed the urgent channel');
        const { frame, payloadBytes } = received;
        if (frame.type !== 'pages' || frame.round !== ANSWER_ROUND) {
          throw new GodwitError('GODWIT_PROTOCOL', `the source sent "${frame.type}" on the urgent channel`);
        }
        const pages = checkRuns(this.#memory, frame.block, frame.runs, frame.type);
        if (payloadBytes !== pages * this.#memory.pageSize) {
          throw new GodwitError('GODWIT_PROTOCOL', `an answer of ${pages} pages has ${payloadBytes} bytes`);
        }
        await urgent.readPayload([sink.bytes.subarray(0, payloadBytes)]);
        if (this.#urgent !== urgent || this.ended !== 'no') return;
        putRuns(sink, frame.block, frame.runs, this.#memory.pageSize);
        this.arrived();
      }
    } catch (error) {
      this.#lose(urgent, error);
    }
  }

  #lose(urgent: PageStream, error: unknown): void {
    if (this.#urgent !== urgent) return;
    this.#urgent = undefined;
    this.#onLost(GodwitError.wrap(error, 'GODWIT_LINK_LOST', 'the urgent channel failed'));
  }

  /** Puts pages into memory; without contents they are zero. A page that is already there is dropped. */
  #put(block: number, page: number, pageCount: number, contents: Uint8Array | undefined): void {
    if (this.ended === 'undone')
      throw new GodwitError('GODWIT_INTERNAL', 'pages were put after the end of the service');
    const { pageSize, blocks } = this.#memory;
    for (let i = 0; i < pageCount; i++) {
      if (!this.#missing.at(block).has(page + i)) {
        this.duplicates++;
        continue;
      }
      const bytes = contents?.subarray(i * pageSize, (i + 1) * pageSize) ?? new Uint8Array(pageSize);
      blocks[block]?.view((page + i) * pageSize, pageSize).set(bytes);
      this.#missing.at(block).clearRange(page + i, 1);
    }
  }

  #fill(value: number): void {
    const { pageSize, blocks } = this.#memory;
    for (const [index, bitmap] of this.#missing.blocks.entries()) {
      for (let page = bitmap.nextDirty(0); page !== -1; page = bitmap.nextDirty(page + 1)) {
        blocks[index]?.view(page * pageSize, pageSize).fill(value);
      }
    }
  }
}

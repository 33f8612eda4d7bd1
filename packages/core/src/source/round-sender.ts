import { abortable } from '../abortable.js';
import type { Clock } from '../clock.js';
import { GodwitError } from '../errors.js';
import type { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import { type GuestMemory, pagesOf, RAM_WINDOW_BYTES } from '../memory/guest-memory.js';
import { type PageRun, PageRunList } from '../memory/page-run.js';
import type { PagesByKind } from '../round-record.js';
import type { DirtyTracker } from '../tracker/dirty-tracker.js';
import type { BandwidthLimit } from './bandwidth-limit.js';
import type { PageBatch, PageChannel } from './page-channel.js';

/** Re-arming and hole discovery go by chunks of this many bytes: one ioctl for many pages, soon before they are read. */
const CHUNK_BYTES = 64 * 2 ** 20;

/** At most this many bytes in a batch, and so in a frame: large enough that per-frame cost vanishes. */
const BATCH_BYTES = 2 ** 20;

/** At most this many runs in a batch: each is one entry of a gathering write (IOV_MAX is 1024). */
const BATCH_RUNS = 512;

/** Batches that each channel may hold at once: while one is in the kernel's hands the next is scanned. */
const BATCHES_PER_CHANNEL = 2;

/** Continuous work after which pending I/O gets its turn. */
const YIELD_AFTER_MS = 3;

/** What sending a round cost. Milliseconds of the source's clock. */
export interface SentRound {
  readonly pages: PagesByKind;
  /** Guest bytes that these pages stand for. */
  readonly rawBytes: number;
  readonly wireBytes: number;
  readonly scanMs: number;
  readonly sendMs: number;
  readonly limitMs: number;
  readonly totalMs: number;
}

export interface RoundSenderParts {
  readonly memory: GuestMemory;
  readonly tracker: DirtyTracker;
  readonly channels: readonly PageChannel[];
  readonly limit: BandwidthLimit;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  /** Resolves when the destination has acknowledged the round with the number of pages it received. */
  readonly acknowledged: (round: number) => Promise<number>;
  /** Called after each batch was handed over, for progress. */
  readonly onBatch: (pages: number) => void;
}

interface Slot extends PageBatch {
  round: number;
  blockIndex: number;
  readonly channel: PageChannel;
}

/**
 * Sends the dirty pages of a round: cuts them into batches of runs, hands each to whichever channel is free, and waits
 * for the destination's acknowledgement of the whole round.
 *
 * For every chunk the order is: re-arm, find holes, read. Never the other way round: a write between reading and
 * re-arming would be lost.
 */
export class RoundSender {
  readonly #parts: RoundSenderParts;
  readonly #free: Slot[] = [];
  #waiter: ((slot: Slot) => void) | undefined;
  #failWaiter: ((error: unknown) => void) | undefined;
  #failure: { readonly error: unknown } | undefined;
  #limitMs = 0;
  #rearmMs = 0;
  #lastYield = 0;
  #chargedBytes = 0;
  #acknowledgedPages = 0;

  constructor(parts: RoundSenderParts) {
    this.#parts = parts;
    for (let i = 0; i < BATCHES_PER_CHANNEL; i++) {
      for (const channel of parts.channels) {
        this.#free.push({ channel, round: 0, blockIndex: 0, runs: new PageRunList(BATCH_RUNS), holes: new PageRunList(64) });
      }
    }
  }

  /**
   * Sends every page that is set in `dirty`. With `limited` false the bandwidth limit does not apply (the guest is
   * paused). The bitmaps are only read: until this resolves, they are what the destination has not acknowledged.
   */
  async send(round: number, dirty: DirtyBitmaps, limited: boolean): Promise<SentRound> {
    const { memory, channels, clock } = this.#parts;
    const before = totals(channels);
    const wireBefore = wireBytes(channels);
    const start = clock.now();
    this.#limitMs = 0;
    this.#rearmMs = 0;
    this.#lastYield = start;
    const chunkPages = CHUNK_BYTES / memory.pageSize;
    for (let blockIndex = 0; blockIndex < memory.blocks.length; blockIndex++) {
      const bitmap = dirty.at(blockIndex);
      let page = bitmap.nextDirty(0);
      while (page !== -1) {
        const chunk = Math.floor(page / chunkPages) * chunkPages;
        const end = Math.min(chunk + chunkPages, bitmap.pageCount);
        await this.#sendChunk(round, dirty, blockIndex, chunk, end - chunk, limited);
        page = end < bitmap.pageCount ? bitmap.nextDirty(end) : -1;
      }
    }
    await this.#barrier(round);
    const after = totals(channels);
    const totalMs = clock.now() - start;
    const scanMs = after.scanMs - before.scanMs + this.#rearmMs;
    return {
      pages: { raw: after.raw - before.raw, zero: after.zero - before.zero, hole: after.hole - before.hole },
      rawBytes: (totalPages(channels) - before.raw - before.zero - before.hole) * memory.pageSize,
      wireBytes: wireBytes(channels) - wireBefore,
      scanMs,
      limitMs: this.#limitMs,
      sendMs: Math.max(0, totalMs - scanMs - this.#limitMs),
      totalMs,
    };
  }

  async #sendChunk(
    round: number,
    dirty: DirtyBitmaps,
    blockIndex: number,
    firstPage: number,
    pageCount: number,
    limited: boolean,
  ): Promise<void> {
    const { memory, tracker, clock } = this.#parts;
    const block = memory.blocks[blockIndex] as GuestMemory['blocks'][number];
    const bitmap = dirty.at(blockIndex);
    const start = clock.now();
    tracker.rearm?.(blockIndex, firstPage, pageCount);
    const runs = bitmap.runs(new PageRunList(), firstPage, pageCount);
    // A dense chunk may reach over memory that was never touched, or was given back: reading it would allocate it.
    const holes = new PageRunList();
    const present = block.populated !== undefined && runs.pageCount * 4 >= pageCount ? new PageRunList() : runs;
    if (present !== runs) cutHoles(runs, block.populated?.({ firstPage, pageCount }) ?? [], present, holes);
    this.#rearmMs += clock.now() - start;
    await this.#sendRuns(round, blockIndex, present, 'runs', limited);
    await this.#sendRuns(round, blockIndex, holes, 'holes', limited);
  }

  async #sendRuns(
    round: number,
    blockIndex: number,
    list: PageRunList,
    kind: 'runs' | 'holes',
    limited: boolean,
  ): Promise<void> {
    // A chunk lies inside a memory window and a batch inside a chunk, so no run of a batch crosses a window.
    const batchPages = kind === 'runs' ? Math.max(1, BATCH_BYTES / this.#parts.memory.pageSize) : Number.MAX_SAFE_INTEGER;
    let slot: Slot | undefined;
    for (let i = 0; i < list.length; i++) {
      let page = list.firstPage(i);
      let left = list.runPages(i);
      while (left > 0) {
        slot ??= await this.#acquire(round, blockIndex, limited);
        const room = batchPages - slot[kind].pageCount;
        const take = Math.min(left, room);
        slot[kind].push(page, take);
        page += take;
        left -= take;
        if (slot[kind].pageCount >= batchPages || slot[kind].length >= BATCH_RUNS) {
          this.#dispatch(slot);
          slot = undefined;
        }
      }
    }
    if (slot !== undefined) this.#dispatch(slot);
  }

  /** A free slot, after the limit and the event loop have had their due. */
  async #acquire(round: number, blockIndex: number, limited: boolean): Promise<Slot> {
    const { clock, limit, signal } = this.#parts;
    limit.charge(this.#unchargedBytes());
    if (limited && !limit.open) {
      const start = clock.now();
      await limit.wait(signal);
      this.#limitMs += clock.now() - start;
    }
    if (clock.now() - this.#lastYield > YIELD_AFTER_MS) {
      await clock.yield();
      this.#lastYield = clock.now();
    }
    const slot = this.#free.pop() ?? (await this.#nextFree());
    this.#check();
    slot.round = round;
    slot.blockIndex = blockIndex;
    slot.runs.clear();
    slot.holes.clear();
    return slot;
  }

  #nextFree(): Promise<Slot> {
    return abortable(
      new Promise<Slot>((resolve, reject) => {
        this.#waiter = resolve;
        this.#failWaiter = reject;
      }),
      this.#parts.signal,
    );
  }

  #dispatch(slot: Slot): void {
    const pages = slot.runs.pageCount + slot.holes.pageCount;
    slot.channel.send(slot).then(
      () => this.#release(slot),
      (error: unknown) => this.#fail(error),
    );
    this.#parts.onBatch(pages);
  }

  #unchargedBytes(): number {
    const carried = wireBytes(this.#parts.channels);
    const uncharged = carried - this.#chargedBytes;
    this.#chargedBytes = carried;
    return uncharged;
  }

  #release(slot: Slot): void {
    const waiter = this.#waiter;
    this.#waiter = undefined;
    this.#failWaiter = undefined;
    if (waiter === undefined) this.#free.push(slot);
    else waiter(slot);
  }

  #fail(error: unknown): void {
    this.#failure ??= { error };
    this.#failWaiter?.(error);
    this.#waiter = undefined;
    this.#failWaiter = undefined;
  }

  #check(): void {
    if (this.#failure !== undefined) throw this.#failure.error;
    this.#parts.signal.throwIfAborted();
  }

  /** Every channel ends the round; then the destination says how many pages it has put into guest memory. */
  async #barrier(round: number): Promise<void> {
    const { channels, signal, acknowledged } = this.#parts;
    const expected = totalPages(channels) - this.#acknowledgedPages;
    const ack = acknowledged(round);
    ack.catch(() => {});
    await abortable(Promise.all(channels.map((channel) => channel.endRound(round))), signal);
    const pages = await abortable(ack, signal);
    this.#check();
    if (pages !== expected) {
      throw new GodwitError(
        'GODWIT_PROTOCOL',
        `round ${round}: ${expected} pages were sent, but the destination acknowledged ${pages}; a frame was lost`,
      );
    }
    this.#acknowledgedPages += expected;
  }
}

function totals(channels: readonly PageChannel[]) {
  const sum = { raw: 0, zero: 0, hole: 0, scanMs: 0 };
  for (const { totals: one } of channels) {
    sum.raw += one.raw;
    sum.zero += one.zero;
    sum.hole += one.hole;
    sum.scanMs += one.scanMs;
  }
  return sum;
}

function wireBytes(channels: readonly PageChannel[]): number {
  let bytes = 0;
  for (const channel of channels) bytes += channel.wireBytes;
  return bytes;
}

function totalPages(channels: readonly PageChannel[]): number {
  const { raw, zero, hole } = totals(channels);
  return raw + zero + hole;
}

/** Splits dirty runs into those with memory behind them and those without. Both inputs ascend. */
function cutHoles(
  runs: PageRunList,
  populated: Iterable<PageRun>,
  present: PageRunList,
  holes: PageRunList,
): void {
  const extents = PageRunList.from(populated);
  let at = 0;
  for (let i = 0; i < runs.length; i++) {
    let page = runs.firstPage(i);
    const end = page + runs.runPages(i);
    while (page < end) {
      while (at < extents.length && extents.firstPage(at) + extents.runPages(at) <= page) at++;
      const first = at < extents.length ? extents.firstPage(at) : end;
      if (first > page) {
        const stop = Math.min(first, end);
        holes.push(page, stop - page);
        page = stop;
      } else {
        const stop = Math.min(end, first + extents.runPages(at));
        present.push(page, stop - page);
        page = stop;
      }
    }
  }
}

/** The dirty bitmaps of round 1: all populated RAM, whatever was migrated before. */
export async function populatedBitmaps(memory: GuestMemory, into: DirtyBitmaps, clock: Clock): Promise<void> {
  for (let blockIndex = 0; blockIndex < memory.blocks.length; blockIndex++) {
    const block = memory.blocks[blockIndex] as GuestMemory['blocks'][number];
    const bitmap = into.at(blockIndex);
    const pages = pagesOf(memory, block);
    const step = RAM_WINDOW_BYTES / memory.pageSize;
    for (let firstPage = 0; firstPage < pages; firstPage += step) {
      const range = { firstPage, pageCount: Math.min(step, pages - firstPage) };
      for (const run of block.populated?.(range) ?? [range]) bitmap.setRange(run.firstPage, run.pageCount);
      await clock.yield();
    }
  }
}

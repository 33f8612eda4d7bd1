import { abortable } from '../abortable.js';
import type { Clock } from '../clock.js';
import { GodwitError } from '../errors.js';
import type { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import { PageRunList } from '../memory/page-run.js';
import { cutHoles } from '../memory/populated-pages.js';
import { allPages, type PagesByKind } from '../round-record.js';
import type { DirtyTracker } from '../tracker/dirty-tracker.js';
import type { BandwidthLimit } from './bandwidth-limit.js';
import { difference, scannedSince, scanTimes, totals, wireBytes } from './channel-totals.js';
import { noTotals, type PageBatch, type PageChannel, type PageChannelTotals } from './page-channel.js';

/** Trackers are re-armed, and holes found, in chunks of this many bytes: one ioctl for many pages, just before they are read. */
const CHUNK_BYTES = 64 * 2 ** 20;

/** Chunks begin and end at multiples of this many pages, since the kernel re-arms whole words of its bitmap. */
const CHUNK_UNIT_PAGES = 64;

/**
 * Most bytes of pages in a batch, and so in a frame: large enough that the cost per frame is small. A channel that cuts batches into
 * frames itself may ask for more (`PageChannel.batchBytes`).
 */
const BATCH_BYTES = 2 ** 20;

/** Most runs in a frame: each is one entry of a gathering write (IOV_MAX is 1024). */
const BATCH_RUNS = 512;

/** A round is cut into at least this many batches a channel, so that all of them have work until its end. */
const SHARES_PER_CHANNEL = 4;

/** Batches that each channel may hold at once: while the kernel writes some, the next ones are classified. */
const BATCHES_PER_CHANNEL = 4;

/** Milliseconds of continuous work after which the sender yields to pending I/O. */
const YIELD_AFTER_MS = 1;

/** The pages, bytes and times of a round that was sent. Times are milliseconds of the source's clock. */
export interface SentRound {
  readonly pages: PagesByKind;
  /** Guest bytes that these pages stand for. */
  readonly rawBytes: number;
  /** Bytes of these pages on the wire, framing included, device state not. */
  readonly wireBytes: number;
  /** Bytes that deltas and compression have saved. */
  readonly savedBytes: number;
  readonly scanMs: number;
  readonly sendMs: number;
  readonly limitMs: number;
  readonly totalMs: number;
  /**
   * Bytes that went out after the bandwidth limit last made us wait (all, when it never did), and the time from then to
   * the acknowledgement without scanning: the link by itself, not our limit. `burstWallMs`: with scanning.
   */
  readonly burstBytes: number;
  readonly burstMs: number;
  readonly burstWallMs: number;
}

export interface RoundSenderParts {
  readonly memory: GuestMemory;
  readonly tracker: DirtyTracker;
  readonly channels: readonly PageChannel[];
  readonly limit: BandwidthLimit;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  /** Most bytes of payload that the destination takes in one frame. */
  readonly maximumPayload: number;
  /** Resolves when the destination has acknowledged the round with the number of pages it received. */
  readonly acknowledged: (round: number) => Promise<number>;
  /** Called after each batch was handed over, and with 0 after it was written where no limit holds back: for progress. */
  readonly onBatch: (pages: number) => void;
  /** Bytes of device state on the streams of `channels`: over a link without page channels they share the control stream. */
  readonly deviceBytes: () => number;
}

interface Slot extends PageBatch {
  round: number;
  blockIndex: number;
  limit: number;
  readonly channel: PageChannel;
}

/**
 * Sends the dirty pages of a round: cuts them into batches of runs, hands each to a free channel, and waits for the destination's
 * acknowledgement of the whole round.
 *
 * The order for every chunk is: re-arm, find holes, read. In any other order a write between reading and re-arming would be lost.
 */
export class RoundSender {
  readonly #parts: RoundSenderParts;
  readonly #free: Slot[] = [];
  #waiter: ((slot: Slot) => void) | undefined;
  #failure: { readonly error: unknown } | undefined;
  #limitMs = 0;
  #rearmMs = 0;
  #lastYield = 0;
  /** Pages handed to channels in this round: what the destination must acknowledge. */
  #dispatched = 0;
  /** Pages of this round. */
  #dirtyPages = 0;
  /** Most pages of a batch of this round, where that is more than a frame: see `SHARES_PER_CHANNEL`. */
  #sharePages = 0;
  readonly #inFlight = new Set<Promise<void>>();
  #onFailure: ((error: unknown) => void) | undefined;
  #burst = { bytes: 0, at: 0, scanMs: [] as readonly number[], rearmMs: 0 };
  #begun = {
    ...{ start: 0, wireBefore: 0, before: noTotals() as Readonly<PageChannelTotals> },
    scanMs: [] as readonly number[],
  };
  /** Ends the round that is being sent, but not the connection. */
  #giveUp: AbortSignal | undefined;
  /** The pending end of the round, once `roundEnd` was sent on the channels. */
  #ending: { readonly round: number; readonly acknowledged: Promise<number> } | undefined;
  /** Every dirty page before this one was handed to a channel. */
  #reached = { block: 0, page: 0 };
  /** Of the chunk that is being sent: pages of each list before `before` were handed to a channel. */
  #handed: { readonly list: PageRunList; before: number }[] = [];
  /** When a channel last took a batch. */
  #lastProgress = 0;

  constructor(parts: RoundSenderParts) {
    this.#parts = parts;
    const depthOf = (channel: PageChannel) => channel.depth ?? BATCHES_PER_CHANNEL;
    const deepest = Math.max(...parts.channels.map(depthOf));
    for (let i = 0; i < deepest; i++) {
      for (const channel of parts.channels) {
        if (i >= depthOf(channel)) continue;
        this.#free.push({
          channel,
          round: 0,
          blockIndex: 0,
          limit: 0,
          runs: new PageRunList(BATCH_RUNS),
          holes: new PageRunList(64),
        });
      }
    }
  }

  /**
   * Sends every page that is set in `dirty`, of which there are `dirtyPages`. With `limited` false the bandwidth limit does not
   * apply (the guest is paused). The bitmaps are only read: until this resolves, the destination has not acknowledged their pages.
   * Resolves when it has, and no channel borrows guest memory. When `giveUp` aborts first, it rejects with that reason; the round
   * must then be ended by `abandon` before another one begins.
   */
  async send(
    round: number,
    dirty: DirtyBitmaps,
    dirtyPages: number,
    limited: boolean,
    giveUp?: AbortSignal,
  ): Promise<SentRound> {
    const { memory, channels, clock } = this.#parts;
    this.#giveUp = giveUp;
    this.#ending = undefined;
    this.#reached = { block: 0, page: 0 };
    this.#handed = [];
    const before = totals(channels);
    const wireBefore = this.#pageBytes;
    const start = clock.now();
    this.#limitMs = 0;
    this.#rearmMs = 0;
    this.#lastYield = start;
    this.#dispatched = 0;
    this.#sharePages = Math.floor(dirtyPages / (channels.length * SHARES_PER_CHANNEL));
    this.#burst = { bytes: wireBefore, at: start, scanMs: scanTimes(channels), rearmMs: 0 };
    this.#begun = { start, before, wireBefore, scanMs: this.#burst.scanMs };
    this.#dirtyPages = dirtyPages;
    this.#lastProgress = start;
    const chunkPages = Math.max(CHUNK_UNIT_PAGES, CHUNK_BYTES / memory.pageSize);
    for (let blockIndex = 0; blockIndex < memory.blocks.length; blockIndex++) {
      const bitmap = dirty.at(blockIndex);
      let page = bitmap.nextDirty(0);
      while (page !== -1) {
        const chunk = Math.floor(page / chunkPages) * chunkPages;
        const end = Math.min(chunk + chunkPages, bitmap.pageCount);
        this.#reached = { block: blockIndex, page: chunk };
        this.#handed = [];
        await this.#sendChunk(round, dirty, blockIndex, chunk, end - chunk, limited);
        page = end < bitmap.pageCount ? bitmap.nextDirty(end) : -1;
      }
    }
    this.#reached = { block: memory.blocks.length, page: 0 };
    this.#handed = [];
    if (this.#dispatched !== dirtyPages) {
      throw new GodwitError(
        'GODWIT_INTERNAL',
        `round ${round}: ${dirtyPages} pages are dirty, but ${this.#dispatched} were sent`,
      );
    }
    await this.#barrier(round);
    return this.#sent(start, before, wireBefore, clock.now());
  }

  /**
   * Ends a round whose `send` was given up: waits for the batches in flight, sends `roundEnd` on every channel and waits for the
   * acknowledgement. Then it clears the pages that the destination has in `dirty`, the bitmaps of that `send`. No later round begins
   * before, so that an old page never overwrites a newer one.
   */
  async abandon(round: number, dirty: DirtyBitmaps): Promise<void> {
    this.#giveUp = undefined;
    await this.#unlessFailed(this.idle());
    this.#end(round);
    await this.#barrier(round);
    const { block, page } = this.#reached;
    for (let index = 0; index < Math.min(block, dirty.blocks.length); index++) dirty.at(index).clearAll();
    if (block >= dirty.blocks.length) return;
    if (page > 0) dirty.at(block).clearRange(0, page);
    for (const { list, before } of this.#handed) {
      for (let i = 0; i < list.length && list.firstPage(i) < before; i++) {
        const first = list.firstPage(i);
        dirty.at(block).clearRange(first, Math.min(list.runPages(i), before - first));
      }
    }
  }

  /** The pages, bytes and times so far of the round that was under way when the link was lost. */
  interrupted(): SentRound {
    const { start, before, wireBefore } = this.#begun;
    return this.#sent(start, before, wireBefore, Math.max(start, this.#lastProgress));
  }

  #sent(start: number, before: PageChannelTotals, wireBefore: number, end: number): SentRound {
    const { memory, channels } = this.#parts;
    const after = totals(channels);
    const totalMs = end - start;
    // Threads that look at pages at the same time do not add up.
    const scanMs = Math.min(totalMs, scannedSince(channels, this.#begun.scanMs) + this.#rearmMs);
    const pages = difference(after, before);
    const burstWallMs = end - this.#burst.at;
    const burstScanMs = this.#rearmMs - this.#burst.rearmMs + scannedSince(channels, this.#burst.scanMs);
    return {
      pages,
      rawBytes: allPages(pages) * memory.pageSize,
      wireBytes: this.#pageBytes - wireBefore,
      savedBytes: after.savedBytes - before.savedBytes,
      scanMs,
      limitMs: this.#limitMs,
      sendMs: Math.max(0, totalMs - scanMs - this.#limitMs),
      totalMs,
      burstBytes: this.#pageBytes - this.#burst.bytes,
      burstMs: Math.max(0, burstWallMs - burstScanMs),
      burstWallMs,
    };
  }

  /** Resolves when no channel borrows guest memory, also after a failure. */
  async idle(): Promise<void> {
    await Promise.all(this.#inFlight);
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
    // A dense chunk may cover pages without memory (never touched, or given back): reading them would allocate them.
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
    let slot: Slot | undefined;
    let room = { pages: 0, runs: 0 };
    const handed = { list, before: 0 };
    this.#handed.push(handed);
    for (let i = 0; i < list.length; i++) {
      let page = list.firstPage(i);
      let left = list.runPages(i);
      while (left > 0) {
        if (slot === undefined) {
          slot = await this.#acquire(round, blockIndex, limited);
          room = this.#roomOf(slot, kind);
        }
        const take = Math.min(left, room.pages - slot[kind].pageCount);
        slot[kind].push(page, take);
        page += take;
        left -= take;
        if (slot[kind].pageCount >= room.pages || slot[kind].length >= room.runs) {
          this.#dispatch(slot);
          handed.before = page;
          slot = undefined;
        }
      }
    }
    if (slot !== undefined) this.#dispatch(slot);
    handed.before = Number.POSITIVE_INFINITY;
  }

  /** Most pages and runs of a batch for this slot's channel. Under a bandwidth limit batches are small, which keeps to the limit. */
  #roomOf({ channel, limit }: Slot, kind: 'runs' | 'holes'): { readonly pages: number; readonly runs: number } {
    const { memory, maximumPayload } = this.#parts;
    if (kind === 'holes') return { pages: Number.MAX_SAFE_INTEGER, runs: BATCH_RUNS };
    const frameBytes = Math.min(BATCH_BYTES, maximumPayload, limit > 0 ? this.#parts.limit.most : BATCH_BYTES);
    const frame = Math.max(1, Math.floor(frameBytes / memory.pageSize));
    const most = Math.min(Math.floor((channel.batchBytes ?? 0) / memory.pageSize), this.#sharePages);
    const frames = limit > 0 ? 1 : Math.max(1, Math.floor(most / frame));
    return { pages: frames * frame, runs: frames * BATCH_RUNS };
  }

  /** Resolves with a free slot, after waiting for the bandwidth limit and yielding to the event loop when that is due. */
  async #acquire(round: number, blockIndex: number, limited: boolean): Promise<Slot> {
    const { clock, limit, signal } = this.#parts;
    if (limited && !this.#isTail && !limit.open) {
      const start = clock.now();
      await limit.wait(signal);
      const end = clock.now();
      this.#limitMs += end - start;
      const { channels } = this.#parts;
      this.#burst = { bytes: this.#pageBytes, at: end, scanMs: scanTimes(channels), rearmMs: this.#rearmMs };
    }
    if (clock.now() - this.#lastYield > YIELD_AFTER_MS) {
      await clock.yield();
      this.#lastYield = clock.now();
    }
    this.#check();
    const slot = this.#free.pop() ?? (await this.#nextFree());
    slot.round = round;
    slot.blockIndex = blockIndex;
    slot.limit = limited ? limit.bytesPerSecond / this.#parts.channels.length : 0;
    slot.runs.clear();
    slot.holes.clear();
    return slot;
  }

  /**
   * Whether what is left of the round fits into one burst of the limit. It goes out at once, and the next round waits for it to be paid:
   * so that each round ends with a burst that shows the rate of the link, however small the limit.
   */
  get #isTail(): boolean {
    const { limit, memory } = this.#parts;
    return (this.#dirtyPages - this.#dispatched) * memory.pageSize <= limit.burstBytes;
  }

  async #nextFree(): Promise<Slot> {
    let waiter: ((slot: Slot) => void) | undefined;
    const free = new Promise<Slot>((resolve) => {
      waiter = resolve;
      this.#waiter = resolve;
    });
    try {
      return await this.#unlessFailed(free);
    } catch (error) {
      // A slot that became free in this same tick goes back to the free list.
      if (this.#waiter === waiter) this.#waiter = undefined;
      else void free.then((slot) => this.#free.push(slot));
      throw error;
    }
  }

  /** Settles as `promise` does, or rejects as soon as a channel fails or the migration is stopped. */
  #unlessFailed<T>(promise: Promise<T>): Promise<T> {
    // One promise for each wait: one that lasts would keep every wait of a long migration in memory.
    const failed = new Promise<never>((_, reject) => {
      this.#onFailure = reject;
      if (this.#failure !== undefined) reject(this.#failure.error);
    });
    const settling = abortable(Promise.race([promise, failed]), this.#parts.signal);
    return this.#giveUp === undefined ? settling : abortable(settling, this.#giveUp);
  }

  #dispatch(slot: Slot): void {
    const pages = slot.runs.pageCount + slot.holes.pageCount;
    this.#dispatched += pages;
    const sending = slot.channel.send(slot).then(
      () => this.#release(slot),
      (error: unknown) => this.#fail(error),
    );
    this.#inFlight.add(sending);
    void sending.then(() => this.#inFlight.delete(sending));
    this.#parts.onBatch(pages);
  }

  /** Bytes of pages that the channels have written, or are writing. */
  get #pageBytes(): number {
    return wireBytes(this.#parts.channels) - this.#parts.deviceBytes();
  }

  #release(slot: Slot): void {
    this.#lastProgress = this.#parts.clock.now();
    // The last batches of a round go out with none after them.
    if (slot.limit === 0) this.#parts.onBatch(0);
    const waiter = this.#waiter;
    this.#waiter = undefined;
    if (waiter === undefined) this.#free.push(slot);
    else waiter(slot);
  }

  #fail(error: unknown): void {
    this.#failure ??= { error };
    this.#onFailure?.(error);
  }

  #check(): void {
    if (this.#failure !== undefined) throw this.#failure.error;
    this.#parts.signal.throwIfAborted();
    this.#giveUp?.throwIfAborted();
  }

  /** Sends `roundEnd` on every channel, once for each round. */
  #end(round: number): { readonly round: number; readonly acknowledged: Promise<number> } {
    if (this.#ending?.round === round) return this.#ending;
    const { channels, acknowledged } = this.#parts;
    const ack = acknowledged(round);
    const ended = Promise.all(channels.map((channel) => channel.endRound(round)));
    // The channels are waited for too: only then is their borrowed memory free and are their counts final.
    const everything = Promise.all([ack, ended, this.idle()]).then(([pages]) => pages);
    everything.catch(() => {});
    this.#ending = { round, acknowledged: everything };
    return this.#ending;
  }

  /** Ends the round on every channel and compares the destination's count of pages in guest memory with the pages sent. */
  async #barrier(round: number): Promise<void> {
    const expected = this.#dispatched;
    const pages = await this.#unlessFailed(this.#end(round).acknowledged);
    this.#check();
    if (pages !== expected) {
      throw new GodwitError(
        'GODWIT_PROTOCOL',
        `round ${round}: ${expected} pages were sent, but the destination acknowledged ${pages}; a frame was lost`,
      );
    }
  }
}

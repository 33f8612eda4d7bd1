import { abortable } from '../abortable.js';
import { GodwitError } from '../errors.js';
import { PageRunList } from '../memory/page-run.js';
import { type ProcessorTime, processorTimeSince, type ThreadsTime } from '../processor-time.js';
import { PageTaker } from '../queue/page-taker.js';
import { allPages, noPages, type PagesByKind } from '../round-record.js';
import {
  difference,
  processorTimes,
  processorTimesSince,
  scannedSince,
  scanTimes,
  totals,
  wireBytes,
} from './channel-totals.js';
import { noTotals, type PageBatch, type PageChannel, type PageChannelTotals } from './page-channel.js';
import type { RoundMode, RoundSenderParts } from './round-sender-parts.js';
import type { SentRound } from './sent-rounds.js';

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

interface Slot extends PageBatch {
  round: number;
  blockIndex: number;
  limit: number;
  whole: boolean;
  readonly channel: PageChannel;
}

/** Where the pages begin that went out without a wait for the bandwidth limit. */
interface Burst {
  readonly bytes: number;
  readonly at: number;
  readonly scanMs: readonly number[];
  readonly takeMs: number;
  readonly pages: PagesByKind;
  /** The processor times of the channels' own threads, and of this one. */
  readonly channels: readonly ProcessorTime[];
  readonly here: ProcessorTime | undefined;
}

/**
 * Sends the pages of a queue as a round, and waits for the destination's acknowledgement of all of it. Channels on threads of their own
 * take pages by themselves (`PageChannel.takePages`); for the others, and under a bandwidth limit for all, this class cuts the pages into
 * batches of runs and hands each batch to a free channel.
 *
 * The order for every page is: re-arm it, ask whether it is a hole, read it. In any other order a write between reading and re-arming would
 * be lost.
 */
export class RoundSender {
  readonly #parts: RoundSenderParts;
  readonly #free: Slot[] = [];
  #waiter: ((slot: Slot) => void) | undefined;
  #failure: { readonly error: unknown } | undefined;
  readonly #taker: PageTaker;
  #limitMs = 0;
  #takeMs = 0;
  #lastYield = 0;
  /** Pages that were handed to channels, or taken by them, in this round: the destination must acknowledge as many. */
  #dispatched = 0;
  /** Pages of this round. */
  #dirtyPages = 0;
  /** Most pages of a batch of this round, where that is more than a frame: see `SHARES_PER_CHANNEL`. */
  #sharePages = 0;
  readonly #inFlight = new Set<Promise<void>>();
  #onFailure: ((error: unknown) => void) | undefined;
  #burst: Burst = { bytes: 0, at: 0, scanMs: [], takeMs: 0, pages: noPages(), channels: [], here: undefined };
  #begun = {
    ...{ start: 0, wireBefore: 0, before: noTotals() as Readonly<PageChannelTotals> },
    scanMs: [] as readonly number[],
  };
  /** True when the channels have stopped taking pages because a bandwidth limit was set. */
  #stopped = false;
  /** When this signal aborts, the round that is being sent ends, but not the connection. */
  #giveUp: AbortSignal | undefined;
  /** The pending end of the round, once `roundEnd` was sent on the channels. */
  #ending: { readonly round: number; readonly acknowledged: Promise<number> } | undefined;
  #postcopy = false;
  #encodedForLimit = false;
  /** The time at which a channel last took a batch. */
  #lastProgress = 0;

  constructor(parts: RoundSenderParts) {
    this.#parts = parts;
    const { queue, memory, tracker } = parts;
    this.#taker = new PageTaker(queue, memory, tracker.rearmRecipes?.length === 0 ? undefined : tracker.rearmPages);
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
          whole: false,
          runs: new PageRunList(BATCH_RUNS),
          holes: new PageRunList(64),
        });
      }
    }
  }

  /**
   * Sends every page that the queue owes. Resolves when the destination has acknowledged them, and no channel borrows guest memory. When
   * `giveUp` aborts first, it rejects with that reason; the round must then be ended by `abandon` before another one begins. Whatever the
   * reason of a rejection, the queue knows which pages were taken.
   */
  async send(round: number, { limited, postcopy = false }: RoundMode, giveUp?: AbortSignal): Promise<SentRound> {
    const { channels, clock, queue } = this.#parts;
    this.#postcopy = postcopy;
    this.#giveUp = giveUp;
    this.#ending = undefined;
    const before = totals(channels);
    const wireBefore = this.#pageBytes;
    const start = clock.now();
    this.#limitMs = 0;
    this.#takeMs = 0;
    this.#lastYield = start;
    this.#dispatched = 0;
    this.#burst = this.#burstFrom(start);
    this.#begun = { start, before, wireBefore, scanMs: this.#burst.scanMs };
    this.#dirtyPages = queue.count();
    this.#sharePages = Math.floor(this.#dirtyPages / (channels.length * SHARES_PER_CHANNEL));
    this.#lastProgress = start;
    this.#encodedForLimit = limited && this.#parts.limit.bytesPerSecond > 0 && this.#parts.adaptive === true;
    // Pages that the guest needs first have a pass of their own, once it waits for pages.
    let onlyFirst = postcopy && queue.first !== undefined;
    try {
      while (this.#dispatched < this.#dirtyPages) {
        this.#check();
        const most = onlyFirst ? (queue.first?.count() ?? 0) : this.#dirtyPages;
        const pass = queue.open(channels.length, Math.min(most, this.#dirtyPages - this.#dispatched), onlyFirst);
        const already = this.#dispatched;
        this.#stopped = false;
        if (this.#mayTake(limited)) await this.#letTake(round, pass);
        else await this.#hand(round, pass, limited);
        if (this.#stopped) continue;
        if (this.#dispatched === already && !onlyFirst) break;
        onlyFirst = false;
      }
    } finally {
      queue.close();
    }
    if (this.#dispatched !== this.#dirtyPages && !postcopy) {
      throw new GodwitError(
        'GODWIT_INTERNAL',
        `round ${round}: ${this.#dirtyPages} pages are dirty, but ${this.#dispatched} were sent`,
      );
    }
    await this.#barrier(round);
    return this.#sent(start, before, wireBefore, clock.now());
  }

  /**
   * Ends a round whose `send` was given up: waits for the batches in flight, sends `roundEnd` on every channel and waits for the
   * acknowledgement, after which the destination has every page that was taken. No later round begins before, so that an old page never
   * overwrites a newer one.
   */
  async abandon(round: number): Promise<void> {
    this.#giveUp = undefined;
    this.#parts.queue.close();
    await this.#unlessFailed(this.idle());
    this.#end(round);
    await this.#barrier(round);
  }

  /** Whether the end of this round was sent on any channel: only then can the destination be in the next one. */
  hasEnded(round: number): boolean {
    return this.#ending?.round === round;
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
    // The times of threads that scan pages at the same time do not add up.
    const scanMs = Math.min(totalMs, scannedSince(channels, this.#begun.scanMs) + this.#takeMs);
    const pages = difference(after, before);
    const burstWallMs = end - this.#burst.at;
    const burstScanMs = this.#takeMs - this.#burst.takeMs + scannedSince(channels, this.#burst.scanMs);
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
      encodedForLimit: this.#encodedForLimit,
      burstEncoded: encodedShare(difference(after, this.#burst.pages)),
      burstProcessor: this.#processorTime(),
    };
  }

  #burstFrom(at: number): Burst {
    const { channels, clock } = this.#parts;
    return {
      ...{ bytes: this.#pageBytes, at, scanMs: scanTimes(channels), takeMs: this.#takeMs },
      pages: totals(channels),
      ...{ channels: processorTimes(channels), here: clock.processorTime?.() },
    };
  }

  /** The processor time in this burst of the threads that send: the channels' own, or else this one. */
  #processorTime(): ThreadsTime | undefined {
    const { channels, clock } = this.#parts;
    const before = this.#burst.here;
    const now = clock.processorTime?.();
    if (before === undefined || now === undefined) return undefined;
    return processorTimesSince(channels, this.#burst.channels) ?? processorTimeSince(before, now);
  }

  /** Resolves when no channel borrows guest memory, also after a failure. */
  async idle(): Promise<void> {
    await Promise.all(this.#inFlight);
  }

  /**
   * Whether the channels may take pages by themselves: nothing limits the bandwidth, and each channel can re-arm the pages that it takes.
   */
  #mayTake(limited: boolean): boolean {
    const { channels, limit, tracker } = this.#parts;
    if (limited && limit.bytesPerSecond > 0) return false;
    return tracker.rearmRecipes !== undefined && channels.every(({ takePages }) => takePages !== undefined);
  }

  /** Lets every channel take pages until the queue has no more, or until a bandwidth limit is set. */
  async #letTake(round: number, pass: number): Promise<void> {
    const { channels, queue, limit } = this.#parts;
    const onLimit = () => {
      this.#stopped = true;
      queue.close();
    };
    const taking = channels.map((channel) => this.#takes(channel, round, pass));
    limit.onChange = onLimit;
    try {
      await this.#unlessFailed(Promise.all(taking));
    } finally {
      limit.onChange = undefined;
      queue.close();
    }
  }

  #takes(channel: PageChannel, round: number, pass: number): Promise<void> {
    const onTaken = (pages: number): void => {
      this.#dispatched += pages;
      this.#lastProgress = this.#parts.clock.now();
      this.#parts.onBatch(pages);
    };
    const taking = (channel.takePages?.({ round, pass, whole: this.#postcopy }, onTaken) ?? Promise.resolve()).catch(
      (error: unknown) => this.#fail(error),
    );
    this.#inFlight.add(taking);
    void taking.then(() => this.#inFlight.delete(taking));
    return taking;
  }

  /** Takes pages and hands them to the channels, batch by batch. */
  async #hand(round: number, pass: number, limited: boolean): Promise<void> {
    this.#taker.begin(pass);
    while (this.#dispatched < this.#dirtyPages) {
      const slot = await this.#acquire(round, limited);
      const { pages, runs } = this.#roomOf(slot);
      const start = this.#parts.clock.now();
      const taken = this.#taker.take(slot, pages, runs);
      this.#takeMs += this.#parts.clock.now() - start;
      if (taken === 0) {
        this.#free.push(slot);
        return;
      }
      this.#dispatch(slot);
    }
  }

  /** Most pages and runs of a batch for this slot's channel. Under a bandwidth limit batches are small, which keeps to the limit. */
  #roomOf({ channel, limit }: Slot): { readonly pages: number; readonly runs: number } {
    const { memory, maximumPayload } = this.#parts;
    const frameBytes = Math.min(BATCH_BYTES, maximumPayload, limit > 0 ? this.#parts.limit.most : BATCH_BYTES);
    const frame = Math.max(1, Math.floor(frameBytes / memory.pageSize));
    const most = Math.min(Math.floor((channel.batchBytes ?? 0) / memory.pageSize), this.#sharePages);
    const frames = limit > 0 ? 1 : Math.max(1, Math.floor(most / frame));
    return { pages: frames * frame, runs: frames * BATCH_RUNS };
  }

  /** Resolves with a free slot, after waiting for the bandwidth limit, and yielding to the event loop when a yield is due. */
  async #acquire(round: number, limited: boolean): Promise<Slot> {
    const { clock, limit, signal } = this.#parts;
    if (limited && !this.#isTail && !limit.open) {
      const start = clock.now();
      await limit.wait(signal);
      const end = clock.now();
      this.#limitMs += end - start;
      this.#burst = this.#burstFrom(end);
    }
    if (clock.now() - this.#lastYield > YIELD_AFTER_MS) {
      await clock.yield();
      this.#lastYield = clock.now();
    }
    this.#check();
    const slot = this.#free.pop() ?? (await this.#nextFree());
    slot.round = round;
    slot.whole = this.#postcopy;
    slot.limit = limited ? limit.bytesPerSecond / this.#parts.channels.length : 0;
    return slot;
  }

  /**
   * Whether the rest of the round fits into one burst of the limit. That rest is sent at once and the next round waits for its time, so
   * that each round ends with a burst that shows the rate of the link, however small the limit is.
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
    // One promise for each wait: a promise for the whole migration would keep every wait in memory.
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
    // The last batches of a round are followed by no other batch that would report their progress.
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
    // The channels are awaited too: only then are their counts final and is no memory borrowed.
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

/** The share of these pages that are encoded; zero pages, which take no time, do not count. */
function encodedShare({ raw, delta, compressed }: PagesByKind): number {
  return (delta + compressed) / Math.max(1, raw + delta + compressed);
}

import type { Clock } from '../clock.js';
import { GodwitError } from '../errors.js';
import type { MemoryWindows } from '../memory/memory-windows.js';
import type { PageRunList } from '../memory/page-run.js';
import { DeltaCache, type DeltaCacheStorage } from './delta-cache.js';
import { DeltaEncoder } from './delta-encoder.js';
import { EncodedBatch } from './encoded-batch.js';
import { Gain } from './gain.js';
import { LinkPace } from './link-pace.js';
import type { WholePageEncoding } from './page-encoding.js';
import type { PageStreamEncoder } from './stream-encoding.js';

/**
 * Expected cost of deltas until it was measured: comparing a page of 4 KiB with its previous version takes 1.5 us, copying it 0.5 us.
 * The cost is measured, since on a busy machine deltas take longer too.
 */
const DELTA_MS_PER_BYTE = 0.4 / 2 ** 20;

/**
 * Weight of the last batch in the measured cost; each batch without deltas moves the cost towards the expected one by the same weight.
 */
const LEARNING = 0.25;
const FORGETTING = 0.01;

/** The part of a batch's bytes that deltas are expected to save, until it was measured. */
const DELTA_GAIN = 0.3;
/** Deltas are made while comparing pages takes at most this part of the link time that the deltas save. */
const DELTA_SHARE = 0.9;
/**
 * The same part for filling the cache, once for each page: its first use of fresh memory takes several times as long as comparing, but
 * the link sends earlier writes meanwhile.
 */
const FILL_SHARE = 0.9;

/**
 * A stream encoding may send more bytes than its pages have, by at most this part: what it remembers of the pages may save more later.
 */
const OVERHEAD = 1 / 8;

/** A batch that compression does not bring below this part of its size is sent raw. */
const WORTH = 0.95;

/**
 * After `PROBE_AFTER_MS` with encodings, pages are sent raw to measure the rate of the link again, until there is a sample or
 * `PROBE_BYTES` were sent.
 */
const PROBE_AFTER_MS = 20_000;
const PROBE_BYTES = 24 * 2 ** 20;

/** The batch whose pages are encoded. */
export interface BatchToEncode {
  readonly round: number;
  readonly block: number;
  /** Bytes per second that the bandwidth limit leaves this channel; 0 for no limit. */
  readonly limit: number;
  /** As in `PageBatch`. */
  readonly whole?: boolean | undefined;
}

/** The parts of a channel's encoder; a thread makes its own encoder of them. */
export interface ChannelEncoderParts {
  readonly windows: MemoryWindows;
  readonly clock: Clock;
  /** The migration's cache of sent versions, if deltas were agreed on. */
  readonly cache: DeltaCacheStorage | undefined;
  /** Encodings of whole pages; each channel's encoder makes its own stream encoders. */
  readonly encodings: readonly WholePageEncoding[];
  /** Most bytes of payload in a frame. */
  readonly maximumPayload: number;
  /** False to encode always, whatever it costs. */
  readonly adaptive: boolean;
}

/** An encoding of whole pages, and its measured gain on this channel. */
interface Candidate {
  readonly encoding: WholePageEncoding;
  /** The channel's encoder of a stream encoding; `undefined` for a compression. */
  readonly stream: PageStreamEncoder | undefined;
  readonly gain: Gain;
}

/** Whole pages of a batch, encoded. */
export interface EncodedPages {
  readonly encoding: string;
  /** `undefined` when the encoding does not make the pages small enough. */
  readonly bytes: Uint8Array | undefined;
}

/**
 * Decides for each batch how the pages of one channel are sent, and encodes them.
 *
 * On a fast link nothing is encoded: as long as raw pages take less time than an encoding, none is tried, and no page is kept for later
 * deltas. The rate of the link is learned from the back-pressure of raw writes (`LinkPace`) and from the bandwidth limit, the cost of
 * an encoding of whole pages by using it (`Gain`).
 */
export class ChannelEncoder {
  readonly #clock: Clock;
  readonly #adaptive: boolean;
  readonly #maximumPayload: number;
  readonly #windows: MemoryWindows;
  readonly #cache: DeltaCache | undefined;
  readonly #delta: DeltaEncoder | undefined;
  readonly #candidates: readonly Candidate[];
  /** The cost of a byte in batches that mostly gave deltas, and in those that mostly filled the cache. */
  readonly #deltaCost = { compare: DELTA_MS_PER_BYTE, fill: DELTA_MS_PER_BYTE };
  /** The measured part of a batch's bytes that deltas save. */
  #deltaGain = DELTA_GAIN;
  readonly #pace = new LinkPace();
  readonly #free: EncodedBatch[] = [];
  /** When encodings were switched on, in milliseconds of the clock; `undefined` while they are off. */
  #onSince: number | undefined;
  /** Raw bytes that a probe may still take. */
  #probeBytes = 0;
  #probedSamples = 0;
  #encoding = 0;
  #encodingSince = 0;
  /** The last batch of a stream: the next batch is encoded, and its frame begun, only after the frame of this one was begun. */
  #lastInOrder: Promise<unknown> = Promise.resolve();

  constructor({ windows, clock, cache, encodings, maximumPayload, adaptive }: ChannelEncoderParts) {
    this.#clock = clock;
    this.#adaptive = adaptive;
    this.#maximumPayload = maximumPayload;
    this.#windows = windows;
    // Deltas compare 32-bit words.
    this.#cache = cache === undefined || windows.pageSize % 4 !== 0 ? undefined : new DeltaCache(cache);
    this.#delta = this.#cache === undefined ? undefined : new DeltaEncoder(windows, this.#cache);
    this.#candidates = encodings.map((encoding) => ({
      encoding,
      stream: encoding.kind === 'stream' ? encoding.encoder() : undefined,
      gain: new Gain(encoding.expectedMsPerMiB / 2 ** 20, encoding.kind === 'stream' ? encoding.warmUpBytes : 0),
    }));
  }

  /**
   * Sorts the non-zero pages of a batch into deltas and whole pages. `zero` and `holes` are sent by the caller; their cached versions
   * become invalid here. The caller may use the returned batch until the caller has passed it to `release`.
   */
  encode(
    { round, block, limit, whole }: BatchToEncode,
    nonZero: PageRunList,
    zero: PageRunList,
    holes: PageRunList,
  ): EncodedBatch {
    const batch = this.#free.pop() ?? new EncodedBatch();
    batch.reset(round, block);
    const bytes = nonZero.pageCount * this.#windows.pageSize;
    const bytesPerMs = this.#bytesPerMs(bytes, limit);
    batch.encoding = this.#choose(bytes, bytesPerMs);
    const withDelta = whole !== true && this.#delta !== undefined && this.#deltaPays(bytesPerMs);
    this.#turn(withDelta || batch.encoding !== undefined, batch);
    if (this.#cache?.used) {
      this.#delta?.drop(block, zero);
      this.#delta?.drop(block, holes);
      if (!withDelta) this.#delta?.drop(block, nonZero);
    }
    if (withDelta) {
      if (batch.deltas.length < bytes) batch.deltas = new Uint8Array(bytes);
      const start = this.#clock.now();
      this.#delta?.encode(nonZero, batch);
      const deltaPages = batch.delta.pageCount;
      const work = deltaPages * 2 >= nonZero.pageCount ? 'compare' : 'fill';
      if (bytes > 0) this.#learn(work, (this.#clock.now() - start) / bytes, LEARNING);
      if (work === 'compare' && deltaPages > 0) {
        const saved = (deltaPages * this.#windows.pageSize - batch.deltaBytes) / bytes;
        this.#deltaGain += (saved - this.#deltaGain) * LEARNING;
      }
    } else {
      batch.takeFrom(this.#windows, nonZero);
    }
    return batch;
  }

  /**
   * Encodes the whole pages of a batch, if `encode` has chosen an encoding for it, and calls `write` with the result, which begins the
   * frame. The batches of a stream encoding are encoded and written in the order of the calls, since its decoder reads them in that
   * order; compressions run concurrently. The promise rejects when the encoding fails; with a stream encoding those of all later batches
   * reject too.
   */
  encodeWhole<T>(batch: EncodedBatch, write: (encoded: EncodedPages) => T): Promise<T> {
    const candidate = this.#candidates.find((one) => one.encoding === batch.encoding);
    if (candidate?.stream === undefined) return this.#encodeWhole(batch, candidate).then(write);
    const inOrder = this.#lastInOrder.then(() => this.#encodeWhole(batch, candidate)).then(write);
    // The rejection is handled where this batch or a later one is awaited.
    inOrder.catch(() => {});
    this.#lastInOrder = inOrder;
    return inOrder;
  }

  /** Notes that the write of a batch's whole pages begins. */
  begun(batch: EncodedBatch): void {
    if (batch.raw) this.#pace.begun(this.#clock.now());
  }

  /** Notes that the write of a batch's whole pages has ended. */
  ended(batch: EncodedBatch): void {
    if (batch.raw) this.#pace.ended(batch.wholeBytes, this.#clock.now());
  }

  /** Takes back a batch for reuse: nothing of it is being written. */
  release(batch: EncodedBatch): void {
    batch.chunks.length = 0;
    this.#free.push(batch);
  }

  /**
   * The rate of the link in bytes per millisecond; `undefined` while the rate is unknown or being measured again: pages are then sent
   * raw.
   */
  #bytesPerMs(bytes: number, limit: number): number | undefined {
    const pace = this.#pace.bytesPerMs;
    if (limit > 0 && !(pace !== undefined && pace < limit / 1000)) return limit / 1000;
    if (this.#probeBytes > 0) {
      this.#probeBytes -= bytes;
      if (this.#pace.samples === this.#probedSamples) return undefined;
      this.#probeBytes = 0;
    } else if (this.#onSince !== undefined && this.#clock.now() - this.#onSince >= PROBE_AFTER_MS) {
      this.#onSince = undefined;
      this.#probeBytes = PROBE_BYTES;
      this.#probedSamples = this.#pace.samples;
      return undefined;
    }
    return pace;
  }

  #deltaPays(bytesPerMs: number | undefined): boolean {
    if (!this.#adaptive) return true;
    if (bytesPerMs === undefined) return false;
    const { compare, fill } = this.#deltaCost;
    const tooSlow =
      compare > (DELTA_SHARE * this.#deltaGain) / bytesPerMs
        ? 'compare'
        : fill > FILL_SHARE / bytesPerMs
          ? 'fill'
          : undefined;
    if (tooSlow === undefined) return true;
    this.#learn(tooSlow, DELTA_MS_PER_BYTE, FORGETTING);
    this.#deltaGain += (DELTA_GAIN - this.#deltaGain) * FORGETTING;
    return false;
  }

  #learn(work: 'compare' | 'fill', msPerByte: number, weight: number): void {
    this.#deltaCost[work] += (msPerByte - this.#deltaCost[work]) * weight;
  }

  async #encodeWhole(batch: EncodedBatch, candidate: Candidate | undefined): Promise<EncodedPages> {
    if (candidate === undefined) return { encoding: '', bytes: undefined };
    const { encoding, stream, gain } = candidate;
    const { wholeBytes } = batch;
    if (this.#encoding++ === 0) this.#encodingSince = this.#clock.now();
    try {
      const { pageSize } = this.#windows;
      const pages = batch.stage();
      const mostBytes = Math.min(wholeBytes + Math.floor(wholeBytes * OVERHEAD), this.#maximumPayload);
      const bytes =
        encoding.kind === 'compression'
          ? await encoding.compress(pages)
          : await stream?.encode(pages, { pageSize, block: batch.block, runs: batch.whole.toFlatArray() }, mostBytes);
      // Concurrent encodings share the processors: time in which several are under way counts once.
      const now = this.#clock.now();
      gain.tried(wholeBytes, bytes?.length ?? wholeBytes, now - this.#encodingSince);
      this.#encodingSince = now;
      if (encoding.kind === 'compression') {
        return { encoding: encoding.name, bytes: bytes && bytes.length > wholeBytes * WORTH ? undefined : bytes };
      }
      // A stream encoder's result is always sent: the decoder's state would otherwise differ from the encoder's.
      if (bytes === undefined || bytes.length <= mostBytes) return { encoding: encoding.name, bytes };
      throw new Error(
        `${wholeBytes} bytes of pages became ${bytes.length}, and ${mostBytes} may be sent: return undefined, and leave the state as it was`,
      );
    } catch (error) {
      throw GodwitError.wrap(error, 'GODWIT_INTERNAL', `encoding pages with "${encoding.name}" failed`);
    } finally {
      this.#encoding--;
    }
  }

  #choose(bytes: number, bytesPerMs: number | undefined): WholePageEncoding | undefined {
    if (bytes === 0) return undefined;
    if (!this.#adaptive) return this.#candidates[0]?.encoding;
    if (bytesPerMs === undefined) return undefined;
    let best: Candidate | undefined;
    for (const candidate of this.#candidates) {
      if (best === undefined || candidate.gain.msPerByte(bytesPerMs) < best.gain.msPerByte(bytesPerMs)) {
        best = candidate;
      }
    }
    return best?.gain.pays(bytes, bytesPerMs) ? best.encoding : undefined;
  }

  /** Switches encodings on or off. Only the writes of batches without any encoding measure the link's pace. */
  #turn(on: boolean, batch: EncodedBatch): void {
    batch.raw = !on;
    if (on) this.#onSince ??= this.#clock.now();
    else if (this.#onSince !== undefined || this.#probeBytes === PROBE_BYTES) this.#pace.restart(this.#clock.now());
    if (!on) this.#onSince = undefined;
  }
}

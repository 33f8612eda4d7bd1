import type { ThreadsTime } from '../processor-time.js';
import type { PagesByKind } from '../round-record.js';

/** The pages, bytes and times of a round that was sent. Times are milliseconds of the source's clock. */
export interface SentRound {
  readonly pages: PagesByKind;
  /** Bytes of guest memory in these pages. */
  readonly rawBytes: number;
  /** Bytes of these pages on the wire, framing included and device state excluded. */
  readonly wireBytes: number;
  /** Bytes that deltas and compression have saved. */
  readonly savedBytes: number;
  readonly scanMs: number;
  readonly sendMs: number;
  readonly limitMs: number;
  readonly totalMs: number;
  /**
   * Bytes that were sent after the last wait for the bandwidth limit (all bytes, if there was none), and the time from
   * then to the acknowledgement without scanning: they show the link without the limit. `burstWallMs`: the same time
   * with scanning.
   */
  readonly burstBytes: number;
  readonly burstMs: number;
  readonly burstWallMs: number;
  /** The pages of this burst that were encoded, as a share of its pages with contents: 0 to 1. */
  readonly burstEncoded?: number | undefined;
  /** Whether encodings were chosen for a bandwidth limit, so that the same pages are sent raw where there is none. */
  readonly encodedForLimit?: boolean | undefined;
  /** The processor time in this burst of the threads that send; `undefined`: not known. */
  readonly burstProcessor?: ThreadsTime | undefined;
}

/**
 * Where a bandwidth limit makes encodings worth it, a burst of which more than this share of the pages is encoded shows how fast both ends
 * encode and decode, and not what the link carries.
 */
const MOSTLY_RAW = 0.1;

/** Whether a round hides the rate at which its pages would go out raw (`MOSTLY_RAW`). */
export function hidesLink({ encodedForLimit = false, burstEncoded = 0 }: SentRound): boolean {
  return encodedForLimit && burstEncoded > MOSTLY_RAW;
}

/**
 * Adds up the parts of a round that took several connections. The burst is that of the last part that carried bytes.
 */
export function addRounds(before: SentRound | undefined, sent: SentRound): SentRound {
  if (before === undefined) return sent;
  const { pages } = before;
  const busy = sent.burstBytes > 0 ? sent : before;
  return {
    pages: {
      raw: pages.raw + sent.pages.raw,
      zero: pages.zero + sent.pages.zero,
      hole: pages.hole + sent.pages.hole,
      delta: pages.delta + sent.pages.delta,
      compressed: pages.compressed + sent.pages.compressed,
    },
    rawBytes: before.rawBytes + sent.rawBytes,
    wireBytes: before.wireBytes + sent.wireBytes,
    savedBytes: before.savedBytes + sent.savedBytes,
    scanMs: before.scanMs + sent.scanMs,
    sendMs: before.sendMs + sent.sendMs,
    limitMs: before.limitMs + sent.limitMs,
    totalMs: before.totalMs + sent.totalMs,
    burstBytes: busy.burstBytes,
    burstMs: busy.burstMs,
    burstWallMs: busy.burstWallMs,
    burstEncoded: busy.burstEncoded,
    encodedForLimit: sent.encodedForLimit,
    burstProcessor: busy.burstProcessor,
  };
}

/** Bytes on the wire in a round, of all streams: pages, device state and control frames. */
export interface WireSpan {
  readonly wireBytes: number;
  /** The part that is device state. */
  readonly deviceBytes: number;
}

/** The fields of a round's record that come from sending it. */
export function describeSent(sent: SentRound, { wireBytes, deviceBytes }: WireSpan) {
  return {
    pages: sent.pages,
    rawBytes: sent.rawBytes,
    wireBytes,
    deviceBytes,
    savedBytes: sent.savedBytes,
    scanMs: sent.scanMs,
    sendMs: sent.sendMs,
    limitMs: sent.limitMs,
  };
}

import type { SentRound } from './round-sender.js';

/** Adds up the parts of a round that took several connections. The burst is that of the last one that carried bytes. */
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
  };
}

/** What was on the wire in a round, of all streams: pages, device state and control frames. */
export interface WireSpan {
  readonly wireBytes: number;
  /** Of these: device state. */
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

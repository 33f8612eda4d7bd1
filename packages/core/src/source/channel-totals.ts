import type { ProcessorTime, ThreadsTime } from '../processor-time.js';
import type { PagesByKind } from '../round-record.js';
import { noTotals, type PageChannel, type PageChannelTotals } from './page-channel.js';

/** The sums of what all channels have sent. */
export function totals(channels: readonly PageChannel[]): PageChannelTotals {
  const sum = noTotals();
  for (const { totals: one } of channels) {
    for (const name of Object.keys(sum) as (keyof PageChannelTotals)[]) sum[name] += one[name];
  }
  return sum;
}

/** For each channel, how long it has scanned pages, in milliseconds. */
export function scanTimes(channels: readonly PageChannel[]): readonly number[] {
  return channels.map(({ totals: { scanMs } }) => scanMs);
}

/**
 * How long pages were scanned since `before`: the times of channels on this thread add up, channels on threads of their own scan
 * at the same time.
 */
export function scannedSince(channels: readonly PageChannel[], before: readonly number[]): number {
  let here = 0;
  let longest = 0;
  for (const [
    index,
    {
      totals: { scanMs },
      ownThread,
    },
  ] of channels.entries()) {
    const ms = scanMs - (before[index] ?? 0);
    if (ownThread === true) longest = Math.max(longest, ms);
    else here += ms;
  }
  return here + longest;
}

/** For each channel, the processor time of its own thread; 0 for channels of the main thread. */
export function processorTimes(channels: readonly PageChannel[]): readonly ProcessorTime[] {
  return channels.map(({ totals: { ranMs, waitedMs } }) => ({ ranMs, waitedMs }));
}

/** The processor time of the channels' own threads since `before`; `undefined` without such threads. */
export function processorTimesSince(
  channels: readonly PageChannel[],
  before: readonly ProcessorTime[],
): ThreadsTime | undefined {
  let threads = 0;
  let ranMs = 0;
  let waitedMs = 0;
  for (const [index, { totals, ownThread }] of channels.entries()) {
    const earlier = before[index];
    if (ownThread !== true || earlier === undefined) continue;
    threads++;
    ranMs += totals.ranMs - earlier.ranMs;
    waitedMs += totals.waitedMs - earlier.waitedMs;
  }
  return threads === 0 ? undefined : { threads, ranMs, waitedMs };
}

/** The pages of `after` that are not in `before`. */
export function difference(after: PagesByKind, before: PagesByKind): PagesByKind {
  return {
    raw: after.raw - before.raw,
    zero: after.zero - before.zero,
    hole: after.hole - before.hole,
    delta: after.delta - before.delta,
    compressed: after.compressed - before.compressed,
  };
}

/** Bytes that the streams of all channels have written, or are writing. */
export function wireBytes(channels: readonly PageChannel[]): number {
  let bytes = 0;
  for (const channel of channels) bytes += channel.wireBytes;
  return bytes;
}

import { abortable } from '../abortable.js';
import type { Clock } from '../clock.js';
import { GodwitError } from '../errors.js';
import type { WelcomeFrame } from '../protocol/frame.js';
import { FEATURES } from '../protocol/negotiate.js';
import type { SourceConnection } from './source-connection.js';

/** Bytes of the first series of frames; each further series has four times as many. */
const FIRST_BYTES = 256 * 1024;
/** The most bytes of the last series: all series together have at most 21 MiB. */
const MOST_BYTES = 16 * 2 ** 20;
/**
 * A series that takes at least this long is used, in milliseconds: the carrier's buffers and a single late wake-up have little effect on
 * it.
 */
const LONG_ENOUGH_MS = 50;
/** Bytes of a frame. */
const FRAME_BYTES = 256 * 1024;
/** The number of random bytes, which no carrier can compress; a frame repeats them several times. */
const PIECE_BYTES = 2 ** 16;
const ROUND_TRIPS = 3;

/** The measured rate and round trip of a link. */
export interface LinkProbe {
  readonly bytesPerSecond: number;
  /** The shortest of three round trips, the peer's engine included. Milliseconds. */
  readonly roundTripMs: number;
  /** Bytes that were sent for the measurement. */
  readonly bytes: number;
  /** Bytes of the last series, and the milliseconds that the series took. */
  readonly lastBytes: number;
  readonly lastMs: number;
}

export interface ProbeOptions {
  /** The most bytes of a series: a bandwidth limit allows this many at once. */
  readonly most?: number;
  /** When the signal aborts, no further frame is sent, and the result is that of the series so far. */
  readonly cut?: AbortSignal;
}

/**
 * Measures the rate of a connection's control stream with a few MiB that the destination throws away: 256 KiB, then 1, 4 and 16 MiB, until
 * a series takes 50 ms. The time of a series ends when the destination's engine has read all of it. Throws `GODWIT_UNSUPPORTED` when the
 * destination (a file, or an older engine) does not take probes.
 */
export async function probeLink(
  connection: SourceConnection,
  { features, maximumPayload }: WelcomeFrame,
  clock: Clock,
  { most = MOST_BYTES, cut }: ProbeOptions = {},
): Promise<LinkProbe> {
  if (!features.includes(FEATURES.probe)) {
    throw new GodwitError(
      'GODWIT_UNSUPPORTED',
      `the link to ${connection.peer} cannot be measured: its other end does not know "probe"; give a rate in bytes per second instead`,
    );
  }
  let roundTripMs = Number.POSITIVE_INFINITY;
  for (let i = 0; i < ROUND_TRIPS; i++) roundTripMs = Math.min(roundTripMs, await connection.ping());
  const frameBytes = Math.min(FRAME_BYTES, maximumPayload);
  const payload = piecesOf(frameBytes);
  let bytes = 0;
  for (let series = FIRST_BYTES; ; series *= 4) {
    const start = clock.now();
    let lastBytes = 0;
    while (lastBytes < series && (lastBytes === 0 || cut?.aborted !== true)) {
      await abortable(connection.control.write({ type: 'probe' }, payload), connection.signal);
      lastBytes += frameBytes;
    }
    await connection.ping();
    const lastMs = Math.max(0.001, clock.now() - start - roundTripMs);
    bytes += lastBytes;
    if (lastMs >= LONG_ENOUGH_MS || series * 4 > Math.min(most, MOST_BYTES) || cut?.aborted === true) {
      return { bytesPerSecond: (lastBytes * 1000) / lastMs, roundTripMs, bytes, lastBytes, lastMs };
    }
  }
}

function piecesOf(byteLength: number): readonly Uint8Array[] {
  const piece = crypto.getRandomValues(new Uint8Array(Math.min(PIECE_BYTES, byteLength)));
  const pieces: Uint8Array[] = [];
  for (let left = byteLength; left > 0; left -= piece.byteLength) pieces.push(piece.subarray(0, left));
  return pieces;
}

import { nonNegative } from '../argument.js';
import type { Clock } from '../clock.js';
import { GodwitError } from '../errors.js';
import type { FrameStream } from '../link/frame-stream.js';

export interface KeepaliveOptions {
  /**
   * A side that has written nothing on the control stream, or has heard nothing, for this long sends a `ping`.
   * Milliseconds; default 5,000. With 0 it sends none: the peer may then take the link for lost.
   */
  readonly keepaliveMs?: number;
  /**
   * A link on which not a byte has come for this long, on any stream, while it took none of ours either, counts as lost. A peer that sends a byte at a time
   * is alive. Time in which this process did not get to look does not count. Milliseconds; default 30,000, at least twice
   * `keepaliveMs`. With 0 a silent link is waited for as long as the carrier likes.
   */
  readonly silenceTimeoutMs?: number;
}

export interface KeepaliveTimes {
  readonly keepaliveMs: number;
  readonly silenceTimeoutMs: number;
}

/** Fills in defaults; throws `GODWIT_INVALID_ARGUMENT` for times that would take every quiet link for lost. */
export function keepaliveTimes(options: KeepaliveOptions): KeepaliveTimes {
  const silenceTimeoutMs = nonNegative('silenceTimeoutMs', options.silenceTimeoutMs ?? 30_000);
  const keepaliveMs = nonNegative('keepaliveMs', options.keepaliveMs ?? 5000);
  if (silenceTimeoutMs > 0 && silenceTimeoutMs < 2 * keepaliveMs) {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `silenceTimeoutMs (${silenceTimeoutMs}) must be at least twice keepaliveMs (${keepaliveMs}), or 0: a quiet peer is heard once in keepaliveMs`,
    );
  }
  return { keepaliveMs, silenceTimeoutMs };
}

/** The id of a keepalive's `ping`: no answer to it is waited for. */
export const KEEPALIVE_ID = 0;

export interface KeepaliveParts extends KeepaliveTimes {
  /** Who is at the other end, for the message. */
  readonly peer: 'source' | 'destination';
  /** Those of the link at this moment; the first one is the control stream. */
  readonly streams: () => readonly FrameStream[];
  readonly clock: Clock;
  /** The end of the link. */
  readonly signal: AbortSignal;
}

/**
 * Bytes that have left since the last look and say that the peer takes them: more than pings alone. A carrier takes what fits into
 * its buffers of a peer that is gone, so its silence is noticed that much later.
 */
const TAKEN_BYTES = 4096;

/** How often in `keepaliveMs`, and in `silenceTimeoutMs`, is looked. Both may therefore take a quarter longer. */
const LOOKS = 4;

/**
 * Keeps a link alive, and notices one that is not: a cable that was cut says nothing, and TCP may take a quarter of an
 * hour to. When nothing was heard for `silenceTimeoutMs`, all streams are dropped, with `GODWIT_LINK_LOST`. Resolves at the
 * end of the link; never rejects.
 */
export async function keepAlive(parts: KeepaliveParts): Promise<void> {
  const { keepaliveMs, silenceTimeoutMs, peer, streams, clock, signal } = parts;
  const shortest = Math.min(keepaliveMs || Number.POSITIVE_INFINITY, silenceTimeoutMs || Number.POSITIVE_INFINITY);
  if (shortest === Number.POSITIVE_INFINITY) return;
  const pause = shortest / LOOKS;
  let written = 0;
  let read = 0;
  let sentBefore = 0;
  let quietMs = 0;
  let silentMs = 0;
  let writing = false;
  let lookedAt = clock.now();
  try {
    for (;;) {
      await clock.sleep(pause, signal);
      // What has arrived while this process was busy is read first, and the time that it was away for is nobody's silence.
      await clock.yield();
      signal.throwIfAborted();
      const elapsed = Math.min(clock.now() - lookedAt, 2 * pause);
      lookedAt = clock.now();
      const [control] = streams();
      const heard = streams().reduce((sum, stream) => sum + stream.bytesRead, 0);
      const sent = streams().reduce((sum, stream) => sum + stream.bytesWritten, 0);
      // A link that is slow has answers behind what is still in our own buffers: that it is taken is a sign of life.
      silentMs = heard === read && sent < sentBefore + TAKEN_BYTES ? silentMs + elapsed : 0;
      read = heard;
      sentBefore = sent;
      quietMs = control?.bytesWritten === written ? quietMs + elapsed : 0;
      written = control?.bytesWritten ?? 0;
      if (silenceTimeoutMs > 0 && silentMs >= silenceTimeoutMs) {
        const lost = silent(peer, silenceTimeoutMs);
        for (const stream of streams()) stream.abort(lost);
        return;
      }
      // Behind what the peer does not take, one ping says as much as many.
      if (keepaliveMs > 0 && Math.max(quietMs, silentMs) >= keepaliveMs && control !== undefined && !writing) {
        writing = true;
        quietMs = 0;
        const done = () => {
          writing = false;
        };
        control.write({ type: 'ping', id: KEEPALIVE_ID }).then(done, done);
      }
    }
  } catch {
    // The link has ended.
  }
}

function silent(peer: string, silenceTimeoutMs: number): GodwitError {
  return new GodwitError(
    'GODWIT_LINK_LOST',
    `nothing was heard from the ${peer} for silenceTimeoutMs (${silenceTimeoutMs} ms): the link counts as lost`,
  );
}

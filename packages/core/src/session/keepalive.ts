import { nonNegative } from '../argument.js';
import type { Clock } from '../clock.js';
import { GodwitError } from '../errors.js';
import type { FrameStream } from '../link/frame-stream.js';
import { checks } from './checks.js';

/** The times after which a dead link is noticed whose streams report no error. */
export interface KeepaliveOptions {
  /**
   * A side that has written nothing on the control stream, or has received nothing, for this long sends a `ping`. Milliseconds; default
   * 5,000. With 0 the side sends no `ping`: the peer may then take the link for lost.
   */
  readonly keepaliveMs?: number;
  /**
   * A link counts as lost (`GODWIT_LINK_LOST`) when for this long no byte was received on any stream and the carrier took none of this
   * side's bytes. A peer that sends one byte at a time counts as alive. In post-copy the link also counts as lost when a thread has
   * waited for a page for this long and nothing came on the urgent channel in that time. Time in which this process was blocked does not
   * count. Milliseconds; default 30,000, at least twice `keepaliveMs`. With 0 only the carrier decides when a link is lost.
   */
  readonly silenceTimeoutMs?: number;
}

export interface KeepaliveTimes {
  readonly keepaliveMs: number;
  readonly silenceTimeoutMs: number;
}

export const KEEPALIVE_OPTIONS: Readonly<Record<keyof KeepaliveOptions, true>> = {
  keepaliveMs: true,
  silenceTimeoutMs: true,
};

/** Fills in defaults; throws `GODWIT_INVALID_ARGUMENT` for times with which every quiet link would count as lost. */
export function keepaliveTimes(options: KeepaliveOptions): KeepaliveTimes {
  const silenceTimeoutMs = nonNegative('silenceTimeoutMs', options.silenceTimeoutMs ?? 30_000);
  const keepaliveMs = nonNegative('keepaliveMs', options.keepaliveMs ?? 5000);
  if (silenceTimeoutMs > 0 && silenceTimeoutMs < 2 * keepaliveMs) {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `silenceTimeoutMs (${silenceTimeoutMs}) must be at least twice keepaliveMs (${keepaliveMs}), or 0: a quiet peer sends one ping in each keepaliveMs`,
    );
  }
  return { keepaliveMs, silenceTimeoutMs };
}

/** The id of keepalive's pings; nothing waits for their `pong`. */
export const KEEPALIVE_ID = 0;

export interface KeepaliveParts extends KeepaliveTimes {
  /** The peer's role, for the message. */
  readonly peer: 'source' | 'destination';
  /** The link's streams now; the first one is the control stream. */
  readonly streams: () => readonly FrameStream[];
  readonly clock: Clock;
  /** Aborts at the end of the link. */
  readonly signal: AbortSignal;
}

/**
 * The number of bytes, written since the last check, from which on the peer counts as reading: more than pings alone take. A carrier's
 * buffers also take bytes for a peer that is gone, which delays the detection by the time to fill the buffers.
 */
const TAKEN_BYTES = 4096;

/**
 * The number of checks in the shorter of `keepaliveMs` and `silenceTimeoutMs`. Either time may therefore be exceeded by a quarter of the
 * shorter.
 */
const CHECKS = 4;

/**
 * Pings a quiet peer, and aborts all streams with `GODWIT_LINK_LOST` after `silenceTimeoutMs` of silence: TCP may take a quarter of
 * an hour to notice a cut cable. Resolves at the end of the link; never rejects.
 */
export async function keepAlive(parts: KeepaliveParts): Promise<void> {
  const { keepaliveMs, silenceTimeoutMs, peer, streams, clock, signal } = parts;
  const shortest = Math.min(keepaliveMs || Number.POSITIVE_INFINITY, silenceTimeoutMs || Number.POSITIVE_INFINITY);
  if (shortest === Number.POSITIVE_INFINITY) return;
  const pause = shortest / CHECKS;
  let written = 0;
  let read = 0;
  let sentBefore = 0;
  let quietMs = 0;
  let silentMs = 0;
  let writing = false;
  try {
    for await (const elapsed of checks(clock, pause, signal)) {
      const [control] = streams();
      const received = streams().reduce((sum, stream) => sum + stream.bytesRead, 0);
      const sent = streams().reduce((sum, stream) => sum + stream.bytesWritten, 0);
      // On a slow link an answer comes late, since this side's ping waits behind buffered pages: bytes that the carrier takes show a
      // live peer.
      silentMs = received === read && sent < sentBefore + TAKEN_BYTES ? silentMs + elapsed : 0;
      read = received;
      sentBefore = sent;
      quietMs = control?.bytesWritten === written ? quietMs + elapsed : 0;
      written = control?.bytesWritten ?? 0;
      if (silenceTimeoutMs > 0 && silentMs >= silenceTimeoutMs) {
        const lost = silent(peer, silenceTimeoutMs);
        for (const stream of streams()) stream.abort(lost);
        return;
      }
      // At most one ping is being written: further pings behind bytes that the peer does not read would show nothing.
      if (keepaliveMs > 0 && Math.max(quietMs, silentMs) >= keepaliveMs && control !== undefined && !writing) {
        writing = true;
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
    `nothing was received from the ${peer} for silenceTimeoutMs (${silenceTimeoutMs} ms): the link counts as lost`,
  );
}

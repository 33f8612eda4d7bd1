import { nonNegative } from '../argument.js';
import type { Clock } from '../clock.js';
import { GodwitError } from '../errors.js';
import type { FrameStream } from '../link/frame-stream.js';
import { checks } from './checks.js';

/** How a link is noticed that is dead without saying so. Milliseconds. */
export interface KeepaliveOptions {
  /**
   * A side that has written nothing on the control stream, or has received nothing, for this long sends a `ping`.
   * Milliseconds; default 5,000. With 0 it sends none: the peer may then take the link for lost.
   */
  readonly keepaliveMs?: number;
  /**
   * A link counts as lost (`GODWIT_LINK_LOST`) after this long without a byte received on any stream and without bytes of ours
   * taken. A peer that sends one byte at a time is alive. By post-copy also when somebody has waited for a page for so long, and nothing
   * came on the urgent channel in that time. Time in which this process was blocked does not count. Milliseconds;
   * default 30,000, at least twice `keepaliveMs`. With 0 only the carrier decides when a link is lost.
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

/** Fills in defaults; throws `GODWIT_INVALID_ARGUMENT` for times that would take every quiet link for lost. */
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
 * Bytes written since the last check from which on the peer counts as taking them: more than pings alone. The buffers of a
 * carrier take bytes for a peer that is gone, which delays the notice of its silence by the time to fill them.
 */
const TAKEN_BYTES = 4096;

/** Checks in the shorter of `keepaliveMs` and `silenceTimeoutMs`. Either time may therefore be exceeded by a quarter of the shorter. */
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
      // On a slow link an answer comes late, since our ping waits behind buffered pages: bytes that are taken show a live peer.
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
      // At most one ping is being written: more of them behind bytes that the peer does not take would tell nothing.
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
    `nothing was received from the ${peer} for silenceTimeoutMs (${silenceTimeoutMs} ms): the link counts as lost`,
  );
}

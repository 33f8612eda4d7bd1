import type { Clock } from '../clock.js';
import { GodwitError } from '../errors.js';
import type { FrameStream } from '../link/frame-stream.js';
import type { MissingMemory } from '../missing/missing-memory.js';
import { checks } from '../session/checks.js';

/** The number of checks in each `silenceTimeoutMs`; the timeout may be exceeded by the time between two of them. */
const CHECKS = 4;

export interface UnansweredParts {
  readonly missing: Pick<MissingMemory, 'status'>;
  /** The stream on which pages are asked for and answered. */
  readonly urgent: Pick<FrameStream, 'bytesRead'>;
  /** Milliseconds; with 0 only the carrier decides when the channel is lost. */
  readonly silenceTimeoutMs: number;
  readonly clock: Clock;
  /** Aborts at the end of the connection. */
  readonly signal: AbortSignal;
  readonly onLost: (reason: GodwitError) => void;
}

/**
 * Takes the urgent channel for lost when a thread has waited for a page for `silenceTimeoutMs` and nothing came on the channel in that
 * time. Keepalive does not notice this: the source may answer on its other streams and have sent the page on an urgent channel that is
 * dead. Time in which this process was blocked does not count. Never rejects.
 */
export async function watchRequests(parts: UnansweredParts): Promise<void> {
  const { missing, urgent, silenceTimeoutMs, clock, signal, onLost } = parts;
  if (silenceTimeoutMs === 0) return;
  const pause = silenceTimeoutMs / CHECKS;
  let read = urgent.bytesRead;
  let silentMs = 0;
  try {
    for await (const elapsed of checks(clock, pause, signal)) {
      const waitingMs = missing.status().waitingUs / 1000;
      silentMs = urgent.bytesRead === read && waitingMs > 0 ? silentMs + elapsed : 0;
      read = urgent.bytesRead;
      if (silentMs < silenceTimeoutMs || waitingMs < silenceTimeoutMs) continue;
      onLost(
        new GodwitError(
          'GODWIT_LINK_LOST',
          `a page was asked for on the urgent channel, and nothing came there for silenceTimeoutMs (${silenceTimeoutMs} ms): ` +
            'the link counts as lost',
        ),
      );
      return;
    }
  } catch {
    // The connection has ended.
  }
}

import type { Clock } from '../clock.js';
import { GodwitError } from '../errors.js';
import type { FrameStream } from '../link/frame-stream.js';
import type { MissingMemory } from '../missing/missing-memory.js';
import { checks } from '../session/checks.js';

/** Checks in each `silenceTimeoutMs`, which may be exceeded by one of them. */
const CHECKS = 4;

export interface UnansweredParts {
  readonly missing: Pick<MissingMemory, 'status'>;
  /** The stream on which pages are asked for and answered. */
  readonly urgent: Pick<FrameStream, 'bytesRead'>;
  /** 0: only the carrier decides when it is lost. */
  readonly silenceTimeoutMs: number;
  readonly clock: Clock;
  /** Aborts at the end of the connection. */
  readonly signal: AbortSignal;
  readonly onLost: (reason: GodwitError) => void;
}

/**
 * Takes the urgent channel for lost when somebody has waited for a page for `silenceTimeoutMs`, and nothing came on it in that time: the
 * source may be alive on its other streams, which keepalive looks at, and has sent the page on one that carries nothing any more. Time in
 * which this process was blocked does not count. Never rejects.
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

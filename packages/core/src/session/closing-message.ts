import type { Clock } from '../clock.js';
import { GodwitError } from '../errors.js';
import { settledWithin } from '../in-time.js';
import type { FrameStream } from '../link/frame-stream.js';

/** How long each step of closing a connection may take: writing the closing message, and waiting for the peer's. Milliseconds. */
export const CLOSING_MS = 1000;

/** The last frame of a side on a control stream. */
export interface ClosingMessage {
  readonly error: GodwitError;
  /** Whether the peer may connect again. False when the migration is over for this side. */
  readonly retry: boolean;
}

/**
 * Closes every stream: writes the closing message on the first one (the control stream), ends all, waits for at most `CLOSING_MS` for
 * the peer to do the same, and drops the streams that are still open. Afterwards no memory is borrowed and no handle is open. Never
 * rejects. Resolves with whether the carrier has taken the message; true when there is none.
 *
 * @param acceptedMs how long the carrier may take to accept the message, behind pages that are still being written. Milliseconds
 */
export async function closeStreams(
  streams: readonly FrameStream[],
  clock: Clock,
  message: ClosingMessage | undefined,
  acceptedMs = CLOSING_MS,
): Promise<boolean> {
  const [control] = streams;
  let sent = message === undefined;
  let busy = message !== undefined;
  const begun = clock.now();
  // The message is queued behind frames that are still being written; `close` takes effect after it.
  const sending = message === undefined ? undefined : control?.write(errorFrame(message));
  const written = sending
    ?.then(() => {
      sent = true;
    })
    .finally(() => {
      busy = false;
    });
  const ending = Promise.allSettled([written, ...streams.map((stream) => stream.close())]);
  if (written !== undefined) {
    await settledWithin(written, clock, acceptedMs);
    // When this thread was busy, the timer fires before the carrier's answer is handled.
    if (busy) await clock.yield();
  }
  if (!busy) await settledWithin(ending, clock, Math.max(0, CLOSING_MS - (clock.now() - begun)));
  const why = message === undefined ? '' : `: ${message.error.message}`;
  const over = new GodwitError('GODWIT_LINK_LOST', `the migration is over${why}`);
  for (const stream of streams) stream.abort(over);
  // This wait has no time limit: memory that the kernel still reads or writes must not be freed, however long the disk takes.
  await Promise.all(streams.map((stream) => stream.settled?.()));
  return sent;
}

function errorFrame({ error: { code, message }, retry }: ClosingMessage) {
  return { type: 'error', code, message, retry } as const;
}

import type { Clock } from '../clock.js';
import { GodwitError } from '../errors.js';
import { settledWithin } from '../in-time.js';
import type { FrameStream } from '../link/frame-stream.js';

/** How long an ending side waits: for the peer to take the reason, to say its own, and to close. Milliseconds. */
export const CLOSING_MS = 1000;

/**
 * How long a carrier may take to accept the closing message, in milliseconds: one that has so many pages before it that it takes
 * longer would keep a migration that is over from ending. The peer is then told over another connection.
 */
const ACCEPTED_MS = 100;

/** The last thing that a side says on a control stream. */
export interface ClosingMessage {
  readonly error: GodwitError;
  /** Whether the peer may come back over another connection. False when the migration is over for this side. */
  readonly retry: boolean;
}

/**
 * Lets go of every stream: says the closing message on the first one (the control stream), ends all, waits a little for the peer
 * to do the same (not when the carrier is too busy to take the message), and drops what is left. Afterwards nothing is borrowed and no handle is open. Never rejects. Returns
 * whether the carrier has taken the message; true when there is none.
 */
export async function closeStreams(
  streams: readonly FrameStream[],
  clock: Clock,
  message: ClosingMessage | undefined,
): Promise<boolean> {
  const [control] = streams;
  let said = message === undefined;
  // Queued behind what is still being written; `close` comes after it all the same.
  const saying = message === undefined ? undefined : control?.write(errorFrame(message));
  const told = saying?.then(() => {
    said = true;
  });
  const ending = Promise.allSettled([told, ...streams.map((stream) => stream.close())]);
  if (told !== undefined) {
    await settledWithin(told, clock, ACCEPTED_MS);
    // After a busy moment of this thread, timers come before what the carrier has to say.
    if (!said) await clock.yield();
  }
  if (said) await settledWithin(ending, clock, CLOSING_MS);
  const why = message === undefined ? '' : `: ${message.error.message}`;
  const over = new GodwitError('GODWIT_LINK_LOST', `the migration is over${why}`);
  for (const stream of streams) stream.abort(over);
  // Without a limit: memory that the kernel still reads or fills must not be freed, however long the disk takes.
  await Promise.all(streams.map((stream) => stream.settled?.()));
  return said;
}

function errorFrame({ error: { code, message }, retry }: ClosingMessage) {
  return { type: 'error', code, message, retry } as const;
}

import type { Clock } from '../clock.js';
import { GodwitError } from '../errors.js';
import { settledWithin } from '../in-time.js';
import type { FrameStream } from './frame-stream.js';

/** How long an ending side waits: for the peer to take the reason, to say its own, and to close. Milliseconds. */
export const CLOSING_MS = 1000;

/**
 * Lets go of every stream: says `lastWords` on the first one (the control stream), ends all, waits a little for the peer
 * to do the same, and drops what is left. Afterwards nothing is borrowed and no handle is open. Never rejects. Returns
 * whether the carrier has taken the last words; true when there are none.
 */
export async function closeWithMessage(
  streams: readonly FrameStream[],
  clock: Clock,
  lastWords: GodwitError | undefined,
): Promise<boolean> {
  const [control] = streams;
  let said = lastWords === undefined;
  // Queued behind what is still being written; `close` comes after it all the same.
  const saying =
    lastWords !== undefined && control !== undefined
      ? control
          .write({ type: 'error', code: lastWords.code, message: lastWords.message, retry: lastWords.retry })
          .then(() => {
            said = true;
          })
      : undefined;
  const ending = [saying, ...streams.map((stream) => stream.close())];
  await settledWithin(Promise.allSettled(ending), clock, CLOSING_MS);
  const over = new GodwitError('GODWIT_LINK_LOST', `the migration is over${lastWords ? `: ${lastWords.message}` : ''}`);
  for (const stream of streams) stream.abort(over);
  // Without a limit: memory that the kernel still reads or fills must not be freed, however long the disk takes.
  await Promise.all(streams.map((stream) => stream.settled?.()));
  return said;
}

/** Whether `error` only says that a stream broke: the peer may have told the reason on another one. */
export function isLinkLost(error: unknown): boolean {
  return GodwitError.is(error) && error.code === 'GODWIT_LINK_LOST' && !error.remote;
}

import type { FrameStream, GodwitError } from '@godwit/core';

/** How long a refused peer has to take the reason, in milliseconds. */
const CLOSING_MS = 1_000;

/** Beyond this many at a time, pending connections are dropped without a word. */
const MAXIMUM_CLOSING = 64;

let refusals = 0;

/** Tells the peer why, if it listens, and drops the stream. Never fails, and nobody needs to wait for it. */
export function refuse(stream: FrameStream, reason: GodwitError): void {
  if (refusals >= MAXIMUM_CLOSING) {
    stream.abort(reason);
    return;
  }
  refusals++;
  const timer = setTimeout(() => stream.abort(reason), CLOSING_MS);
  stream
    .write({ type: 'error', code: reason.code, message: reason.message, retry: reason.retry })
    .then(() => stream.close())
    .catch(() => stream.abort(reason))
    .finally(() => {
      refusals--;
      clearTimeout(timer);
    });
}

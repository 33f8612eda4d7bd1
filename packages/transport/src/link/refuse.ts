import type { FrameStream, GodwitError } from '@godwit/core';

/** How long a refused peer has to take the reason, in milliseconds. */
const CLOSING_MS = 1_000;

/** Beyond this many refusals at a time, further connections are dropped without a reason. */
const MAXIMUM_CLOSING = 64;

let refusals = 0;

/** Tells the peer the reason, if it reads, and drops the stream. Never fails, and need not be awaited. */
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

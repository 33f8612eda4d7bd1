import type { FrameStream, GodwitError } from '@godwit/core';

/** How long a refused peer has to take the reason, in milliseconds. */
const FAREWELL_MS = 1_000;

/** Beyond this many at a time, strangers are dropped without a word. */
const MOST_FAREWELLS = 64;

let farewells = 0;

/** Tells the peer why, if it listens, and drops the stream. Never fails, and nobody needs to wait for it. */
export function refuse(stream: FrameStream, reason: GodwitError): void {
  if (farewells >= MOST_FAREWELLS) {
    stream.abort(reason);
    return;
  }
  farewells++;
  const timer = setTimeout(() => stream.abort(reason), FAREWELL_MS);
  stream
    .write({ type: 'error', code: reason.code, message: reason.message })
    .then(() => stream.close())
    .catch(() => stream.abort(reason))
    .finally(() => {
      farewells--;
      clearTimeout(timer);
    });
}

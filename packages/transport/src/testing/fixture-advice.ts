import assert from 'node:assert/strict';
import { GodwitError } from '@godwit/core';
import type { ByteStream } from '../stream/byte-stream.js';
import { leavingNothing, rejectsWith } from './with-pair.js';

/** Checks a read that was pending when the peer aborted: it must reject or end as the fixture declares. */
export async function checkAbortIsTold(read: Promise<number>, tellsAbort: boolean): Promise<void> {
  if (tellsAbort) {
    const end = await read.then(
      (count) => `a read gave ${count}`,
      (error: unknown) => error,
    );
    assert.ok(
      typeof end !== 'string',
      `${end}: the peer's abort looked like a clean end; if the carrier cannot tell, set tellsAbort: false`,
    );
    return rejectsWith(read, 'GODWIT_LINK_LOST');
  }
  const count = await read.catch((error: unknown) =>
    assert.fail(`the peer's abort was told (${String(error)}), and not as a clean end: set tellsAbort: true`),
  );
  assert.equal(count, 0);
}

/** Checks a connection to a closed listener. */
export async function checkRefusal(connecting: Promise<ByteStream>, tellsRefusal: boolean): Promise<void> {
  if (!tellsRefusal) {
    const stream = await connecting.catch((error: unknown) =>
      assert.fail(`connect has told that nobody listens (${String(error)}): leave capabilities.tellsRefusal out`),
    );
    return rejectsWith(stream.read(new Uint8Array(1)), 'GODWIT_LINK_LOST');
  }
  const stream = await connecting.catch((error: unknown) => {
    if (GodwitError.is(error) && error.code === 'GODWIT_CONNECT_FAILED') return undefined;
    throw error;
  });
  if (stream === undefined) return;
  stream.abort(new GodwitError('GODWIT_CANCELLED', 'nobody listens'));
  assert.fail('connect succeeded with nobody listening: if only a read can tell, set capabilities.tellsRefusal: false');
}

/** Does the same as `leavingNothing`; the message of a failure names the setting of the fixture that may help. */
export function withAdvice(advice: string, body: () => Promise<void>): Promise<void> {
  return leavingNothing(body).catch((error: unknown) => {
    throw new Error(`${error instanceof Error ? error.message : String(error)} (${advice})`, { cause: error });
  });
}

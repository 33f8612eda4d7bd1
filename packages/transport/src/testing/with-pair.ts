import assert from 'node:assert/strict';
import { setTimeout as delay, setImmediate as nextTurn } from 'node:timers/promises';
import { GodwitError } from '@godwit/core';
import type { ByteStream, Listener } from '../stream/byte-stream.js';
import { handlesOf } from './streams.js';
import type { TransportFixture } from './transport-fixture.js';

/**
 * How long sockets and processes may take to be gone after a test, in milliseconds; the bound distinguishes this from
 * "never".
 */
const GONE_MS = 3_000;

/** Runs `body`, then checks that it left no handle open. */
export async function leavingNothing(body: () => Promise<void>): Promise<void> {
  const before = handlesOf();
  await body();
  for (let turns = 0; handlesOf() > before && turns < 100; turns++) await nextTurn();
  for (let waited = 0; handlesOf() > before && waited < GONE_MS; waited += 10) await delay(10);
  assert.ok(handlesOf() <= before, `handles are left: ${process.getActiveResourcesInfo().join(', ')}`);
}

/** Runs `body` with a connected pair, drops it, and checks that no handle is left. */
export function withPair(
  fixture: TransportFixture,
  body: (near: ByteStream, far: ByteStream, listener: Listener) => Promise<void>,
): Promise<void> {
  return leavingNothing(async () => {
    const listener = await fixture.listen();
    const accepted = listener.accept();
    const near = await fixture.connect(listener);
    const far = await accepted;
    try {
      await body(near, far, listener);
    } finally {
      const over = new GodwitError('GODWIT_CANCELLED', 'the test is over');
      near.abort(over);
      far.abort(over);
      await listener.close();
    }
  });
}

export function rejectsWith(promise: Promise<unknown>, code: string): Promise<void> {
  return assert.rejects(promise, (error: unknown) => GodwitError.is(error) && error.code === code);
}

import type { GodwitError } from '@godwit/core';
import type { ByteStream } from '@godwit/transport';

/** Turns of the event loop after which a peer that waits for an answer goes on without it. */
const PATIENCE = 50;

/**
 * A peer that sends fixed bytes in pieces of at most `piece` bytes, then ends its direction, and reads everything that
 * comes. At each of the offsets in `pauses` it waits for an answer before it goes on, but not for ever.
 */
export function scriptedStream(bytes: Uint8Array, piece: number, pauses: readonly number[] = []): ByteStream {
  const ahead = [...pauses, Number.POSITIVE_INFINITY].sort((a, b) => a - b);
  let at = 0;
  let answers = 0;
  let aborted: GodwitError | undefined;

  async function answered(): Promise<void> {
    answers = 0;
    for (let turn = 0; answers === 0 && aborted === undefined && turn < PATIENCE; turn++) {
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  return {
    peer: 'fuzz:',
    async write() {
      if (aborted !== undefined) throw aborted;
      answers++;
    },
    async read(into) {
      while (at >= (ahead[0] as number)) {
        ahead.shift();
        await answered();
      }
      if (aborted !== undefined) throw aborted;
      const count = Math.min(piece, into.length, bytes.length - at, (ahead[0] as number) - at);
      into.set(bytes.subarray(at, at + count));
      at += count;
      return count;
    },
    async close() {},
    abort(reason) {
      aborted ??= reason;
    },
  };
}

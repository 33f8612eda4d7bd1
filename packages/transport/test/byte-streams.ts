import type { GodwitError } from '@godwit/core';
import type { ByteStream } from '@godwit/transport';

/** Collects what is written. */
export function recording(): ByteStream & { bytes(): Uint8Array } {
  const parts: Uint8Array[] = [];
  return {
    peer: 'recording',
    write: async (chunks) => {
      for (const chunk of chunks) parts.push(Uint8Array.from(chunk));
    },
    read: async () => 0,
    close: async () => undefined,
    abort: () => undefined,
    bytes: () => Uint8Array.from(Buffer.concat(parts)),
  };
}

/** Plays `bytes` in pieces of the sizes that `size` gives (at least 1), then ends. */
export function playing(bytes: Uint8Array, size: () => number = () => Number.POSITIVE_INFINITY): ByteStream {
  let at = 0;
  let reason: GodwitError | undefined;
  return {
    peer: 'playing',
    write: async () => undefined,
    read: async (into) => {
      if (reason !== undefined) throw reason;
      const count = Math.min(into.length, bytes.length - at, Math.max(1, size()));
      into.set(bytes.subarray(at, at + count));
      at += count;
      return count;
    },
    close: async () => undefined,
    abort: (error) => {
      reason = error;
    },
  };
}

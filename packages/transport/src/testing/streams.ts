import type { ByteStream } from '../stream/byte-stream.js';

/**
 * The pseudo-random bytes, which are drawn once: the suite needs many patterns, and a loop over bytes is slow until it
 * is compiled.
 */
let drawn = new Uint8Array(0);

/** Bytes that differ at every place and between seeds, so that lost, doubled and misplaced ones show. */
export function pattern(size: number, seed: number): Uint8Array {
  const start = seed * 4099;
  if (drawn.length < start + size) drawn = draw(start + size);
  return drawn.slice(start, start + size);
}

/** Draws the sequence, which is the same at any length (xorshift32, Marsaglia 2003). */
function draw(least: number): Uint8Array<ArrayBuffer> {
  const words = new Uint32Array(Math.max(2 ** 18, Math.ceil(least / 4)));
  let state = 2_463_534_242 | 0;
  for (let i = 0; i < words.length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[i] = state;
  }
  return new Uint8Array(words.buffer);
}

/** Reads to the end of the peer's direction. */
export async function readAll(stream: ByteStream): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  for (;;) {
    const room = new Uint8Array(128 * 1024);
    const count = await stream.read(room);
    if (count === 0) return Buffer.concat(parts);
    parts.push(room.subarray(0, count));
  }
}

export async function readExactly(stream: ByteStream, size: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(size);
  for (let at = 0; at < size; ) {
    const count = await stream.read(bytes.subarray(at), size - at);
    if (count === 0) throw new Error(`the stream ended after ${at} of ${size} bytes`);
    at += count;
  }
  return bytes;
}

/** The number of sockets, ports, processes and the like that keep this process alive. */
export function handlesOf(): number {
  return process.getActiveResourcesInfo().filter((name) => !/Timeout|Immediate|Tick|FSReq/.test(name)).length;
}

/** Fails when the promises take longer; the bound is large, and distinguishes "at once" from "never". */
export async function settledWithin(milliseconds: number, ...promises: Promise<unknown>[]): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not settled within ${milliseconds} ms`)), milliseconds);
  });
  try {
    await Promise.race([Promise.all(promises), late]);
  } finally {
    clearTimeout(timer);
  }
}

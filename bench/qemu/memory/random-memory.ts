import { randomFillSync } from 'node:crypto';

const PAGE = 4096;
const CHUNK_BYTES = 64 * 2 ** 20;

/**
 * Yields random bytes for the addresses from `from` to `to`, different in every page, in pieces that end at multiples of 64 MiB. The
 * bytes are valid until the next piece.
 */
export function* randomMemory(
  from: number,
  to: number,
): Iterable<{ readonly address: number; readonly bytes: Uint8Array }> {
  const chunk = randomFillSync(new Uint8Array(CHUNK_BYTES));
  const view = new DataView(chunk.buffer);
  for (let address = from; address < to; ) {
    const end = Math.min(to, (Math.floor(address / CHUNK_BYTES) + 1) * CHUNK_BYTES);
    for (let page = 0; page < end - address; page += PAGE) view.setFloat64(page, address + page);
    yield { address, bytes: chunk.subarray(0, end - address) };
    address = end;
  }
}

import { Random } from '../simulation/random.js';

/** Contents of the kinds that a guest has. `again` and `nearly` repeat an earlier page. */
const KINDS = ['noise', 'text', 'pointers', 'sparse', 'again', 'nearly'] as const;

/** Makes `pages` pages of all kinds, the same for the same seed. */
export function pagesOfAGuest(pages: number, pageSize: number, seed: number): Uint8Array<ArrayBuffer> {
  const random = new Random(seed);
  const bytes = new Uint8Array(pages * pageSize);
  for (let page = 0; page < pages; page++) {
    const kind = KINDS[below(random, page === 0 ? 4 : KINDS.length)] as (typeof KINDS)[number];
    const into = bytes.subarray(page * pageSize, (page + 1) * pageSize);
    if (kind !== 'again' && kind !== 'nearly') {
      fill(into, kind, random);
      continue;
    }
    const from = below(random, page);
    into.set(bytes.subarray(from * pageSize, (from + 1) * pageSize));
    if (kind === 'nearly') for (let i = 0; i < 9; i++) into[below(random, pageSize)] = below(random, 256);
  }
  return bytes;
}

/** Makes pages of noise, which no encoding makes smaller. */
export function noise(pages: number, pageSize: number, seed: number): Uint8Array<ArrayBuffer> {
  const random = new Random(seed);
  const bytes = new Uint8Array(pages * pageSize);
  for (let at = 0; at < bytes.length; at += pageSize) fill(bytes.subarray(at, at + pageSize), 'noise', random);
  return bytes;
}

function fill(page: Uint8Array, kind: (typeof KINDS)[number], random: Random): void {
  const high = below(random, 256);
  for (let i = 0; i < page.length; i++) {
    if (kind === 'noise') page[i] = below(random, 256);
    else if (kind === 'text') page[i] = 97 + (below(random, 16) % 7);
    else if (kind === 'pointers') page[i] = [below(random, 256), high, i >>> 8, 0, 0x55, 0x55, 0, 0][i % 8] as number;
    else if (i % 512 === 9) page[i] = 1 + below(random, 255);
  }
}

/** A number from 0 to below `limit`. */
export function below(random: Random, limit: number): number {
  return Math.floor(random.fraction() * limit);
}

import type { WholePageEncoding } from '../encoding/page-encoding.js';
import type { PagesOfBatch } from '../encoding/stream-encoding.js';
import type { EncodingFixture, EncodingVector } from './encoding-fixture.js';

/** Both ends of an encoding on one page channel, as the engine uses them. */
export interface EncodingEnds {
  /** Resolves with `undefined` where the pages are sent as they are. */
  encode(pages: Uint8Array, which: PagesOfBatch): Promise<Uint8Array | undefined>;
  decode(bytes: Uint8Array, which: PagesOfBatch): Promise<Uint8Array>;
}

/** Begins a page channel: `near` encodes, `far` decodes. */
export function endsOf(near: WholePageEncoding, far: WholePageEncoding): EncodingEnds {
  const encoder = near.kind === 'stream' ? near.encoder() : undefined;
  const decoder = far.kind === 'stream' ? far.decoder() : undefined;
  return {
    async encode(pages, which) {
      if (near.kind === 'compression') return near.compress(pages);
      const most = pages.length + Math.floor(pages.length / 8);
      const bytes = await encoder?.encode(pages, which, most);
      if (bytes === undefined || bytes.length <= most) return bytes;
      throw new Error(
        `${pages.length} bytes of pages became ${bytes.length}, and ${most} may be sent: return undefined`,
      );
    },
    async decode(bytes, which) {
      if (far.kind === 'compression') return far.decompress(bytes, pagesIn(which) * which.pageSize);
      return (decoder as NonNullable<typeof decoder>).decode(bytes, which);
    },
  };
}

/** Number of pages of a batch. */
export function pagesIn({ runs }: PagesOfBatch): number {
  let pages = 0;
  for (let i = 1; i < runs.length; i += 2) pages += runs[i] as number;
  return pages;
}

/** A batch of consecutive pages from `first` on. */
export function batchOf(pageSize: number, first: number, bytes: number): PagesOfBatch {
  return { pageSize, block: 0, runs: [first, bytes / pageSize] };
}

/**
 * Records the output of an encoding for batches of consecutive pages, as a vector for `EncodingFixture.vectors`: a vector that is
 * kept in a file shows that later versions decode what this one has sent.
 *
 * @example
 * writeFileSync('vectors.json', JSON.stringify([await vectorOf('two alike', dedupe(), 64, [new Uint8Array(128).fill(7)])]));
 */
export async function vectorOf(
  name: string,
  encoding: WholePageEncoding,
  pageSize: number,
  batches: readonly Uint8Array[],
): Promise<EncodingVector> {
  const { encode } = endsOf(encoding, encoding);
  const pieces: EncodingVector['pieces'][number][] = [];
  let page = 0;
  for (const pages of batches) {
    const which = batchOf(pageSize, page, pages.length);
    page += pages.length / pageSize;
    const bytes = await encode(pages.slice(), which);
    if (bytes === undefined) continue;
    pieces.push({ block: which.block, runs: which.runs, bytes: toHex(bytes), pages: toHex(pages) });
  }
  return { name, pageSize, pieces };
}

/** The vector's pieces that a fresh decoder does not decode to their pages, in words; none if all decode correctly. */
export async function wrongPieces(fixture: EncodingFixture, vector: EncodingVector): Promise<string[]> {
  const { decode } = endsOf(fixture.make(), fixture.make());
  const wrong: string[] = [];
  for (const [index, { block, runs, bytes, pages }] of vector.pieces.entries()) {
    try {
      const decoded = toHex(await decode(fromHex(bytes), { pageSize: vector.pageSize, block, runs }));
      if (decoded !== pages) wrong.push(`piece ${index} gives ${decoded}, and not ${pages}`);
    } catch (error) {
      wrong.push(`piece ${index}: ${String(error)}`);
    }
  }
  return wrong;
}

function toHex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

function fromHex(text: string): Uint8Array {
  return Uint8Array.from(text.match(/../g) ?? [], (digits) => Number.parseInt(digits, 16));
}

import * as zlib from 'node:zlib';
import { type Compression, checkOptions, GodwitError, quoted } from '@godwit/core';

/** Options of `zstd`. */
export interface ZstdOptions {
  /** From 1 (the default: fast) to 19 (slow). */
  readonly level?: number;
}

/** Parameters by zstd.h: the numbers are those of the library's stable API. */
const ZSTD_c_compressionLevel = 100;
const ZSTD_d_windowLogMax = 100;

/** The largest window of earlier output that a decompressor keeps: 8 MiB, twice the most bytes of pages in a frame. */
const LARGEST_WINDOW_LOG = 23;

/** Measured at level 1 on a mixture of text, pointers and noise. */
const EXPECTED_MS_PER_MIB = 3;

type Callback = (error: Error | null, result: Uint8Array) => void;

/** The part of `node:zlib` that exists from Node 22.15 and 23.8 on; the types of Node 20 do not have it. */
interface Zstd {
  zstdCompress(bytes: Uint8Array, options: object, callback: Callback): void;
  zstdDecompress(bytes: Uint8Array, options: object, callback: Callback): void;
}

const node = zlib as unknown as Partial<Zstd>;

/** Whether this Node has zstd: 22.15, 23.8 and later. */
export const zstdAvailable: boolean = node.zstdCompress !== undefined && node.zstdDecompress !== undefined;

/**
 * Zstandard for pages: more gain than LZ4 for more time. It runs on libuv's threads, so that the event loop stays free.
 *
 * Throws `GODWIT_UNSUPPORTED` where Node has no zstd (`zstdAvailable`).
 *
 * @example
 * const encodings = [delta(), zstdAvailable ? zstd({ level: 3 }) : lz4()];
 */
export function zstd(options: ZstdOptions = {}): Compression {
  checkOptions<ZstdOptions>('zstd', options, { level: true });
  const { level = 1 } = options;
  if (!Number.isInteger(level) || level < 1 || level > 19) {
    throw new GodwitError('GODWIT_INVALID_ARGUMENT', `level must be a whole number from 1 to 19, got ${quoted(level)}`);
  }
  const { zstdCompress, zstdDecompress } = node;
  if (zstdCompress === undefined || zstdDecompress === undefined) {
    throw new GodwitError(
      'GODWIT_UNSUPPORTED',
      `zstd cannot be used: Node ${process.versions.node} does not have it, 22.15 and later do; use lz4() instead`,
    );
  }
  return {
    kind: 'compression',
    name: 'zstd',
    recipe: { module: import.meta.url, make: 'zstd', options: { level } },
    expectedMsPerMiB: EXPECTED_MS_PER_MIB * level,
    compress: (pages) =>
      called((callback) =>
        zstdCompress(
          pages,
          {
            params: { [ZSTD_c_compressionLevel]: level },
            pledgedSrcSize: pages.length,
            chunkSize: outputBound(pages.length),
          },
          callback,
        ),
      ),
    decompress: (bytes, byteLength) =>
      called((callback) =>
        zstdDecompress(
          bytes,
          {
            params: { [ZSTD_d_windowLogMax]: LARGEST_WINDOW_LOG },
            maxOutputLength: byteLength,
            chunkSize: Math.max(64, byteLength),
          },
          callback,
        ),
      ),
  };
}

/** ZSTD_COMPRESSBOUND of zstd.h, rounded up: with this much room all of the output comes in one piece. */
function outputBound(bytes: number): number {
  return bytes + (bytes >>> 8) + 1024;
}

function called(call: (callback: Callback) => void): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    call((error, result) => (error === null ? resolve(result) : reject(error)));
  });
}

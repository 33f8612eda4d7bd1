import { createRequire } from 'node:module';
import { type Compression, GodwitError } from '@godwit/core';
import type * as Lz4 from 'lz4-napi';

/** The bytes that lz4-napi puts before a block: the length of the uncompressed data, a little-endian 32-bit number. */
const PREFIX_BYTES = 4;

/** Measured on a mixture of text, pointers and noise; noise takes a tenth of it. */
const EXPECTED_MS_PER_MIB = 2;

let loaded: typeof Lz4 | undefined;

/**
 * LZ4 for pages: less gain than Zstandard for less time. It runs on libuv's threads, so that the event loop stays free.
 *
 * The code comes with the package `lz4-napi`. Throws `GODWIT_UNSUPPORTED` on a machine for which it has no binary.
 *
 * @example
 * migrate(vm, connector, { encodings: [delta(), lz4()] }); // receive(links, { prepare, encodings: [delta(), lz4()] })
 */
export function lz4(): Compression {
  const codec = load();
  return {
    kind: 'compression',
    name: 'lz4',
    recipe: { module: import.meta.url, make: 'lz4', options: undefined },
    expectedMsPerMiB: EXPECTED_MS_PER_MIB,
    async compress(pages) {
      const block = await codec.compress(pages);
      return block.subarray(PREFIX_BYTES);
    },
    async decompress(bytes, byteLength) {
      // The prefix is the expected length and not one from the peer: as many bytes are allocated, and a block with more
      // is refused.
      const block = new Uint8Array(PREFIX_BYTES + bytes.length);
      new DataView(block.buffer).setUint32(0, byteLength, true);
      block.set(bytes, PREFIX_BYTES);
      return codec.uncompress(block);
    },
  };
}

/** The binary is loaded only when `lz4` is called: an embedder that does not use it need not have one that loads. */
function load(): typeof Lz4 {
  try {
    loaded ??= createRequire(import.meta.url)('lz4-napi') as typeof Lz4;
    return loaded;
  } catch (error) {
    throw new GodwitError(
      'GODWIT_UNSUPPORTED',
      `lz4 cannot be used here: the package lz4-napi did not load on ${process.platform} ${process.arch}; ` +
        'leave it out of `encodings`, or install its binary for this platform',
      { cause: error },
    );
  }
}

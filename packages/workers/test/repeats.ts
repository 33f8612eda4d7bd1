import type { StreamEncoding } from '@godwit/core';

/** An encoding with state, for threads: a page of one byte is sent as the number of its piece and that byte. */
export function repeats(): StreamEncoding {
  return {
    kind: 'stream',
    name: 'repeats',
    expectedMsPerMiB: 1,
    stateBytes: 8,
    recipe: { module: import.meta.url, make: 'repeats', options: undefined },
    encoder() {
      let next = 0;
      return {
        encode(pages, { pageSize }) {
          const values: number[] = [];
          for (let at = 0; at < pages.length; at += pageSize) {
            const value = pages[at] as number;
            if (pages.subarray(at, at + pageSize).some((byte) => byte !== value)) return undefined;
            values.push(value);
          }
          return Uint8Array.of(next >>> 8, next++ & 255, ...values);
        },
      };
    },
    decoder() {
      let next = 0;
      return {
        decode([high = 0, low = 0, ...values], { pageSize }) {
          if (high * 256 + low !== next++) throw new Error(`piece ${high * 256 + low} came out of order`);
          return Uint8Array.from(
            { length: values.length * pageSize },
            (_, i) => values[Math.floor(i / pageSize)] as number,
          );
        },
      };
    },
  };
}

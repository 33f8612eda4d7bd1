import { delta, GodwitError, type PageEncoding, suggestion } from '@godwit/core';
import { lz4, zstd, zstdAvailable } from '@godwit/transport';

/** The names of page encodings on the command line. */
export const ENCODING_NAMES = ['delta', 'lz4', 'zstd'] as const;

export type EncodingName = (typeof ENCODING_NAMES)[number];

/**
 * @throws GodwitError GODWIT_INVALID_ARGUMENT for a name that does not exist, with the names that there are, and one that is near;
 * GODWIT_UNSUPPORTED for zstd where Node has none
 */
export function encodingsOf(names: readonly EncodingName[]): PageEncoding[] {
  return names.map((name) => {
    if (name === 'delta') return delta();
    if (name === 'lz4') return lz4();
    if (name !== 'zstd') {
      throw new GodwitError(
        'GODWIT_INVALID_ARGUMENT',
        `there is no encoding "${name}"; there are ${ENCODING_NAMES.join(', ')}${suggestion(String(name), ENCODING_NAMES)}`,
      );
    }
    if (!zstdAvailable)
      throw new GodwitError('GODWIT_UNSUPPORTED', 'zstd needs Node.js 22.15 or newer; lz4 works here');
    return zstd();
  });
}

/** All encodings that a destination can use on this version of Node. */
export function knownEncodings(): PageEncoding[] {
  return encodingsOf(ENCODING_NAMES.filter((name) => name !== 'zstd' || zstdAvailable));
}

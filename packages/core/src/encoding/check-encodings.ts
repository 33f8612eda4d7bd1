import { GodwitError } from '../errors.js';
import type { PageEncoding } from './page-encoding.js';

/** Returns `encodings`; throws `GODWIT_INVALID_ARGUMENT` when two have the same name, or a name cannot be sent. */
export function checkEncodings(encodings: readonly PageEncoding[]): readonly PageEncoding[] {
  const names = new Set<string>();
  for (const { name } of encodings) {
    if (!/^[a-z0-9][a-z0-9.-]{0,31}$/.test(name)) {
      throw new GodwitError(
        'GODWIT_INVALID_ARGUMENT',
        `the name of an encoding has from 1 to 32 characters a-z, 0-9, "." and "-", got "${name}"`,
      );
    }
    if (names.has(name)) throw new GodwitError('GODWIT_INVALID_ARGUMENT', `the encoding "${name}" is listed twice`);
    names.add(name);
  }
  return encodings;
}

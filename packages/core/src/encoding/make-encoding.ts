import { GodwitError } from '../errors.js';
import { type DeltaOptions, delta, type EncodingRecipe, type PageEncoding } from './page-encoding.js';

/** Makes an encoding from its recipe, on another thread. Rejects with `GODWIT_INVALID_ARGUMENT` when there is no such function. */
export async function makeEncoding({ module, make, options }: EncodingRecipe): Promise<PageEncoding> {
  if (module === undefined) {
    if (make === 'delta') return delta(options as DeltaOptions);
    throw new GodwitError('GODWIT_INVALID_ARGUMENT', `there is no encoding "${make}" in this package`);
  }
  const exports = (await import(module)) as Record<string, unknown>;
  const factory = exports[make];
  if (typeof factory !== 'function') {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `the module ${module} has no function "${make}" that makes an encoding: see its recipe`,
    );
  }
  return (factory as (options: unknown) => PageEncoding)(options);
}

import { GodwitError } from './errors.js';

/** How another thread makes the same object: it imports `module` and calls its export `make` with `options`. */
export interface ThreadRecipe {
  /** URL of the module; `undefined` for one of this package. */
  readonly module: string | undefined;
  readonly make: string;
  /** Any value that structured clone can copy. */
  readonly options: unknown;
}

const provided = new Map<string, object>();

/**
 * Registers the exports of a module that this thread has already loaded, under the URL that recipes have for it: such a recipe
 * does not load the module again. A thread whose modules are bundled in one file has them there.
 */
export function provideModule(url: string, exports: object): void {
  provided.set(url, exports);
}

/** Makes `what` ("an encoding") from its recipe. Rejects with `GODWIT_INVALID_ARGUMENT` when the module has no such function. */
export async function makeFromRecipe({ module, make, options }: ThreadRecipe, what: string): Promise<unknown> {
  if (module === undefined) {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `there is no function "${make}" in this package that makes ${what}`,
    );
  }
  const exports = (provided.get(module) ?? (await import(module))) as Record<string, unknown>;
  const factory = exports[make];
  if (typeof factory !== 'function') {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `the module ${module} has no function "${make}" that makes ${what}: see its recipe`,
    );
  }
  return await (factory as (options: unknown) => unknown)(options);
}

import { checkOptions, nonNegative } from '../argument.js';
import { GodwitError } from '../errors.js';
import { makeFromRecipe, type ThreadRecipe } from '../thread-recipe.js';
import type { StreamEncoding } from './stream-encoding.js';

/**
 * An encoding, which sends pages in fewer bytes. The source offers its encodings (`encodings`) by name; those that the destination has
 * too are used, each for the batches for which it pays. All other pages are sent as they are.
 *
 * Embedders can write their own: a `Compression`, which knows nothing but the pages of one batch, or a `StreamEncoding`, which
 * remembers what it has sent on a page channel. docs/write-an-encoding.md has one of them whole, and `encodingSuite` of
 * `@godwit/core/testing` tests both.
 */
export type PageEncoding = DeltaEncoding | Compression | StreamEncoding;

/** An encoding whose frames have whole pages, in any number, under its name. */
export type WholePageEncoding = Compression | StreamEncoding;

/** How another thread makes the same encoding. Without a `module` it is one of this package. */
export type EncodingRecipe = ThreadRecipe;

/** Sends a page as the bytes that have changed since it was last sent. Needs no memory at the destination. */
export interface DeltaEncoding {
  readonly kind: 'delta';
  readonly name: 'delta';
  readonly recipe: EncodingRecipe;
  /** Bytes of pages that the source keeps, for all page channels together. */
  readonly cacheBytes: number;
}

/**
 * Sends the pages of a batch compressed in one piece. Embedders can write their own.
 *
 * @example
 * const shuffled: Compression = {
 *   kind: 'compression',
 *   name: 'shuffled-zstd',
 *   expectedMsPerMiB: 4,
 *   compress: (pages) => codec.compress(shuffle(pages)),
 *   decompress: async (bytes, byteLength) => unshuffle(await codec.decompress(bytes, byteLength)),
 * };
 */
export interface Compression {
  readonly kind: 'compression';
  /** The name on both sides: `zstd`, `lz4`. From 1 to 32 characters `a-z`, `0-9`, `.` and `-`. */
  readonly name: string;
  /** How a page channel's thread makes the same encoding; page channels on threads refuse an encoding without a recipe. */
  readonly recipe?: EncodingRecipe;
  /** Expected milliseconds to compress a MiB, until it was measured. */
  readonly expectedMsPerMiB: number;
  /** Compresses `pages`, which do not change until the promise settles. The caller owns the result. */
  compress(pages: Uint8Array): Promise<Uint8Array>;
  /**
   * Decompresses `bytes`, which are untrusted, to `byteLength` bytes. It must reject rather than allocate more than `byteLength` bytes
   * for the result. The engine refuses a result of any other length before any of it is written to guest memory.
   */
  decompress(bytes: Uint8Array, byteLength: number): Promise<Uint8Array>;
}

/** Options of `delta`. */
export interface DeltaOptions {
  /**
   * Bytes of pages that the source keeps. Default 64 MiB, as QEMU's xbzrle-cache-size. Allocated in one piece once the destination has
   * agreed.
   */
  readonly cacheBytes?: number;
}

/**
 * Makes the delta encoding, which sends a page as the difference from the version that was last sent, if the source still has that
 * version: for guests that rewrite a few bytes of many pages. Throws `GODWIT_INVALID_ARGUMENT` for a negative `cacheBytes`.
 *
 * @example
 * migrate(vm, connector, { encodings: [delta({ cacheBytes: 256 * 2 ** 20 })] });
 */
export function delta(options: DeltaOptions = {}): DeltaEncoding {
  checkOptions<DeltaOptions>('delta', options, { cacheBytes: true });
  const cacheBytes = nonNegative('cacheBytes', options.cacheBytes ?? 64 * 2 ** 20);
  return {
    kind: 'delta',
    name: 'delta',
    recipe: { module: undefined, make: 'delta', options: { cacheBytes } },
    cacheBytes,
  };
}

/** The name of an encoding among the features of a hello and a welcome. */
export function encodingFeature(name: string): string {
  return `encoding:${name}`;
}

/** Makes an encoding from its recipe, on another thread. Rejects with `GODWIT_INVALID_ARGUMENT` when there is no such function. */
export async function makeEncoding(recipe: EncodingRecipe): Promise<PageEncoding> {
  if (recipe.module === undefined && recipe.make === 'delta') return delta(recipe.options as DeltaOptions);
  return (await makeFromRecipe(recipe, 'an encoding')) as PageEncoding;
}

/**
 * The recipes of encodings, from which the thread of a page channel makes its own. Throws `GODWIT_UNSUPPORTED`, with the name, for an
 * encoding without a recipe.
 */
export function recipesOf(encodings: readonly PageEncoding[]): readonly EncodingRecipe[] {
  return encodings.map(({ name, recipe }) => {
    if (recipe !== undefined) return recipe;
    throw new GodwitError(
      'GODWIT_UNSUPPORTED',
      `the encoding "${name}" has no recipe, so that the thread of a page channel cannot make it: give it a recipe ` +
        '({ module: import.meta.url, make, options }), or move pages on the main thread (without onWorkers)',
    );
  });
}

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

/** Chooses those of the encodings offered by a hello that the destination has (`mine`). */
export function agreeOn(
  offered: readonly string[],
  mine: readonly PageEncoding[],
): {
  /** The encodings that both sides have. */
  readonly encodings: readonly PageEncoding[];
  /** Their names as features, for the welcome. */
  readonly features: readonly string[];
  /** Names of encodings that only the source has. */
  readonly missing: readonly string[];
} {
  const encodings = mine.filter(({ name }) => offered.includes(encodingFeature(name)));
  const features = encodings.map(({ name }) => encodingFeature(name));
  const prefix = encodingFeature('');
  const missing = offered
    .filter((feature) => feature.startsWith(prefix) && !features.includes(feature))
    .map((feature) => feature.slice(prefix.length));
  return { encodings, features, missing };
}

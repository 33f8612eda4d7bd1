import { nonNegative } from '../argument.js';

/**
 * A way to say what is in a page with fewer bytes. Source and destination name those that they have (`encodings`); what
 * both have is used, a page at a time where it pays, and pages for which nothing pays go as they are.
 *
 * Nothing but names travels. A thread of its own makes its encodings from `recipe`.
 */
export type PageEncoding = DeltaEncoding | Compression;

/** How another thread makes the same encoding: import `module`, call its export `make` with `options`. */
export interface EncodingRecipe {
  /** URL of a module; `undefined` for what this package has itself. */
  readonly module: string | undefined;
  readonly make: string;
  /** Anything that structured clone can carry. */
  readonly options: unknown;
}

/** Pages as what has changed since they were sent last. Needs nothing at the destination. */
export interface DeltaEncoding {
  readonly kind: 'delta';
  readonly name: 'delta';
  readonly recipe: EncodingRecipe;
  /** Bytes of pages that the source remembers, for all page channels together. */
  readonly cacheBytes: number;
}

/** Pages compressed, a batch at a time. An embedder may bring his own. */
export interface Compression {
  readonly kind: 'compression';
  /** What both sides call it: `zstd`, `lz4`. From 1 to 32 characters. */
  readonly name: string;
  readonly recipe: EncodingRecipe;
  /** Milliseconds that a MiB is expected to take, until it was measured. */
  readonly expectedMsPerMiB: number;
  /** Compresses `pages`, which nobody changes until the promise settles. What it resolves with is the caller's. */
  compress(pages: Uint8Array): Promise<Uint8Array>;
  /**
   * The reverse. Must not resolve with, nor ever hold, more than `byteLength` bytes, whatever `bytes` are: reject then. The
   * engine refuses what is not exactly `byteLength` bytes long, before any of it goes into guest memory.
   */
  decompress(bytes: Uint8Array, byteLength: number): Promise<Uint8Array>;
}

export interface DeltaOptions {
  /**
   * Bytes of pages that the source remembers. Default 64 MiB, as QEMU's xbzrle-cache-size. Allocated in one piece when the
   * destination has agreed.
   */
  readonly cacheBytes?: number;
}

/**
 * Sends a page as the difference from the version that was sent before, while that is remembered: for guests that rewrite
 * a few bytes of many pages.
 */
export function delta(options: DeltaOptions = {}): DeltaEncoding {
  const cacheBytes = nonNegative('cacheBytes', options.cacheBytes ?? 64 * 2 ** 20);
  return {
    kind: 'delta',
    name: 'delta',
    recipe: { module: undefined, make: 'delta', options: { cacheBytes } },
    cacheBytes,
  };
}

/** What a hello and a welcome call an encoding, among other features. */
export function encodingFeature(name: string): string {
  return `encoding:${name}`;
}

import type { ThreadRecipe } from '../thread-recipe.js';

/** The pages of a batch, in the order in which their contents follow one another. */
export interface PagesOfBatch {
  /** Bytes of a page. */
  readonly pageSize: number;
  /** Index of the RAM block. */
  readonly block: number;
  /** Flat [first page, page count, ...]: ascending, disjoint, at most 4 MiB of pages. At the destination it is checked already. */
  readonly runs: readonly number[];
}

/**
 * An encoding that remembers: deduplication, a compression with a window, a delta of one's own. It keeps state at both ends, for each
 * page channel of each connection: one encoder, and one decoder that takes what the encoder made, in the same order, every piece
 * once. So both may remember what they like of what went through them, and nothing else: pages that go on another channel, in another
 * encoding, as they are or as zero are seen by neither.
 *
 * State is not carried over: a connection that is made anew, and a destination that was restarted, begin with new encoders and
 * decoders. Nothing is closed, so that state is memory of JavaScript.
 *
 * @example
 * const twice: StreamEncoding = {
 *   kind: 'stream',
 *   name: 'my-dedupe',
 *   expectedMsPerMiB: 2,
 *   stateBytes: 4 * 2 ** 20,
 *   recipe: { module: import.meta.url, make: 'dedupe', options: undefined },
 *   encoder: () => new Encoder(),
 *   decoder: () => new Decoder(),
 * };
 */
export interface StreamEncoding {
  readonly kind: 'stream';
  /** The name on both sides, which stands in the hello. From 1 to 32 characters `a-z`, `0-9`, `.` and `-`. Another format: another name. */
  readonly name: string;
  /** How a page channel's thread makes the same; page channels on threads refuse an encoding without one. */
  readonly recipe?: ThreadRecipe;
  /** Expected milliseconds to encode a MiB of pages, until it was measured. */
  readonly expectedMsPerMiB: number;
  /**
   * Most bytes that one decoder keeps from one call to the next. The destination refuses a source whose page channels would need more
   * than 1 GiB of it together (`GODWIT_LIMIT_EXCEEDED`).
   */
  readonly stateBytes: number;
  /**
   * Bytes of pages that it is given, on each page channel, before the engine looks at what it saves: as many as it takes to remember
   * something. Default 0. With `adaptiveEncodings: false` it is given all pages.
   */
  readonly warmUpBytes?: number;
  /** Makes an encoder without any memory, for a page channel of the source. */
  encoder(): PageStreamEncoder;
  /** Makes a decoder without any memory, for a page channel of the destination, when the first piece in this encoding has come. */
  decoder(): PageStreamDecoder;
}

/** The source's end of a `StreamEncoding` on one page channel. */
export interface PageStreamEncoder {
  /**
   * Encodes the contents of a batch, which do not change until it has returned or its promise has settled. The next call comes only
   * then. The caller owns the result, which has at most `mostBytes` bytes: an eighth more than `pages`, since what is remembered of
   * them may save more later. All of it reaches the decoder, or the connection is lost.
   *
   * `undefined`, where encoding does not help: the pages are sent as they are, and the encoder must be as it was before the call.
   * What it throws ends the migration (`GODWIT_INTERNAL`); the guest stays at the source.
   */
  encode(
    pages: Uint8Array,
    which: PagesOfBatch,
    mostBytes: number,
  ): Uint8Array | undefined | Promise<Uint8Array | undefined>;
}

/** The destination's end of a `StreamEncoding` on one page channel. */
export interface PageStreamDecoder {
  /**
   * Decodes `bytes`, which are untrusted, to the contents of the pages. It must throw rather than give or keep more than the pages and
   * `stateBytes`: the engine refuses a result of any other length before any of it is written to guest memory (`GODWIT_PROTOCOL`). Its
   * result is read before the next call, and may be memory of the decoder's own.
   */
  decode(bytes: Uint8Array, which: PagesOfBatch): Uint8Array | Promise<Uint8Array>;
}

import type { ThreadRecipe } from '../thread-recipe.js';

/** The pages of a batch, in the order in which their contents follow one another. */
export interface PagesOfBatch {
  /** Bytes of a page. */
  readonly pageSize: number;
  /** Index of the RAM block. */
  readonly block: number;
  /** Flat [first page, page count, ...]: ascending, disjoint, at most 4 MiB of pages. The destination has already checked a peer's runs. */
  readonly runs: readonly number[];
}

/**
 * An encoding that remembers: deduplication, a compression with a window, a delta of one's own. It keeps state at both ends of each page
 * channel of each connection: in one encoder, and in one decoder that takes every piece of the encoder's output once and in the same order.
 * Both may remember anything that went through them, and nothing else: neither sees pages that are sent on another channel, in another
 * encoding, as they are or as zero.
 *
 * State is not carried over: a connection that is made anew, and a destination that was restarted, begin with new encoders and decoders.
 * The engine closes neither of them, so that their state must be memory of JavaScript.
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
  /** The name on both sides, as in the hello. From 1 to 32 characters `a-z`, `0-9`, `.` and `-`. Another format: another name. */
  readonly name: string;
  /** How a page channel's thread makes the same encoding; page channels on threads refuse an encoding without a recipe. */
  readonly recipe?: ThreadRecipe;
  /** Expected milliseconds to encode a MiB of pages, until it was measured. */
  readonly expectedMsPerMiB: number;
  /**
   * Most bytes that one decoder keeps from one call to the next. The destination refuses a source whose page channels would need more
   * than 1 GiB of it together (`GODWIT_LIMIT_EXCEEDED`).
   */
  readonly stateBytes: number;
  /**
   * Bytes of pages that the encoding is given on each page channel before the engine measures what it saves: as many as it needs to
   * remember something. Default 0. With `adaptiveEncodings: false` the encoding is given all pages.
   */
  readonly warmUpBytes?: number;
  /** Makes an encoder that remembers nothing yet, for a page channel of the source. */
  encoder(): PageStreamEncoder;
  /** Makes a decoder that remembers nothing yet, for a page channel of the destination, when the first piece in this encoding has come. */
  decoder(): PageStreamDecoder;
}

/** The source's end of a `StreamEncoding` on one page channel. */
export interface PageStreamEncoder {
  /**
   * Encodes the contents of a batch, which do not change until the call has returned or its promise has settled. The next call comes only
   * after that. The caller owns the result, which has at most `mostBytes` bytes: an eighth more than `pages`, since what the encoder
   * remembers of them may save more later. All of it reaches the decoder, or the connection is lost.
   *
   * The result is `undefined` where encoding does not help: the pages are then sent as they are, and the encoder's state must be the one
   * before the call. An exception ends the migration (`GODWIT_INTERNAL`); the guest stays at the source.
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
   * Decodes `bytes`, which are untrusted, to the contents of the pages. The decoder must throw rather than return more bytes than the pages
   * have, or keep more than `stateBytes`: the engine refuses a result of any other length before any of it is written to guest memory
   * (`GODWIT_PROTOCOL`). The result is read before the next call, and may be the decoder's own memory.
   */
  decode(bytes: Uint8Array, which: PagesOfBatch): Uint8Array | Promise<Uint8Array>;
}

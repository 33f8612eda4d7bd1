import type { Frame } from '../protocol/frame.js';
import type { KindsOfPages } from './page-kinds.js';

/**
 * Pages of one block under way: their runs, as pairs of first page and number of pages, and the number of pages of each
 * kind.
 */
export interface CountedPages extends KindsOfPages {
  readonly round: number;
  readonly block: number;
  readonly runs: Float64Array;
  readonly holes: Float64Array;
  readonly holePages: number;
}

/** An item in flight on a simulated link: a frame and the length of its payload, or pages that are only counted. */
export type Parcel =
  | { readonly frame: Frame; readonly payloadBytes: number }
  | { readonly pages: CountedPages; readonly bytes: number };

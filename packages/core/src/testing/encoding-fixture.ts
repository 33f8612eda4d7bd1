import type { WholePageEncoding } from '../encoding/page-encoding.js';

/** What a suite needs from a test runner: those of Jest, Vitest, Mocha and node:test all fit. */
export interface SuiteRunner {
  /** Groups tests under a name. */
  describe(name: string, body: () => void): unknown;
  /** Adds a test, which fails when its promise rejects. */
  test(name: string, body: () => Promise<void>): unknown;
}

/** One encoding under test. */
export interface EncodingFixture {
  /** Makes the encoding as one end of a migration does; two of them stand for two processes. */
  make(): WholePageEncoding;
  /** Bytes of a page. Default 4096. */
  readonly pageSize?: number;
  /**
   * Some whole pages of the kind for which the encoding is made: it must make them smaller, and is tested with them besides the
   * suite's own pages. Default: pages of the suite that repeat, nearly repeat, have text, and have few bytes.
   */
  readonly sample?: Uint8Array;
  /** Pieces that an older version has sent, and that every later version must decode. `vectorOf` makes one. */
  readonly vectors?: readonly EncodingVector[];
}

/** The output of one encoder for some batches, in order, in hex. A fresh decoder must give back the pages. */
export interface EncodingVector {
  readonly name: string;
  readonly pageSize: number;
  readonly pieces: readonly {
    readonly block: number;
    readonly runs: readonly number[];
    readonly bytes: string;
    readonly pages: string;
  }[];
}

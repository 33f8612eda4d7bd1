/** One test on one mutant. */
export interface Pair {
  /** The test's place in its file, from 0. */
  readonly at: number;
  /** The number of the active mutant; `undefined`: none is active. */
  readonly mutant: number | undefined;
}

/** The order to a process that runs the tests of one file on mutants. */
export interface Order {
  /** The folder of the copy. */
  readonly root: string;
  /** The test file. */
  readonly path: string;
  /** Number of mutants. */
  readonly mutants: number;
  /** A mutant that is active while the file is loaded; all pairs are then of this mutant, and the first failure ends the run. */
  readonly whileLoading: number | undefined;
  /**
   * The pairs, in the order of their tests; `undefined`: every test runs once, without a mutant, to find the mutants that it
   * reaches.
   */
  readonly pairs: readonly Pair[] | undefined;
}

/** The reports of such a process. `pair` is the index in the order's pairs, or the test's place if the order has no pairs. */
export type Answer =
  | { readonly kind: 'started'; readonly pair: number }
  | {
      readonly kind: 'ended';
      readonly pair: number;
      readonly name: string;
      readonly ms: number;
      /** The test's error; `undefined`: it passed. */
      readonly error: string | undefined;
      /** The mutants that the test reached; empty if the order has pairs. */
      readonly reached: readonly number[];
    }
  /**
   * After this pair failed, its test failed without the mutant too: an earlier mutant has had a lasting effect. No report follows.
   */
  | { readonly kind: 'spoilt'; readonly pair: number }
  /** The order is done. `error`: why the file could not be run. `dirty`: whether tests have left timers and the like. */
  | {
      readonly kind: 'done';
      readonly error: string | undefined;
      readonly dirty: boolean;
      /** The mutants that were reached outside of tests; empty when the order has pairs. */
      readonly reached: readonly number[];
    };

/**
 * The data that the environment shares with its process, which is possible since Jest loads the environment in the realm of the
 * process.
 */
export interface Shared {
  readonly order: Order;
  readonly answer: (answer: Answer) => void;
  /** The mutants that were reached outside of tests. */
  readonly outside: Uint8Array;
}

/** The error of a test that waits although nothing could wake it. */
export const STUCK = 'it waits for ever';

const KEY = Symbol.for('godwit.mutants');

export function share(shared: Shared): void {
  (globalThis as Record<symbol, unknown>)[KEY] = shared;
}

export function shared(): Shared {
  return (globalThis as Record<symbol, unknown>)[KEY] as Shared;
}

/** The indices of the flags that are set. */
export function ones(flags: Uint8Array): number[] {
  return [...flags.keys()].filter((number) => flags[number] === 1);
}

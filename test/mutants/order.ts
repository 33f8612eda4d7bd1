/** One test on one mutant. */
export interface Pair {
  /** The test's place in its file, from 0. */
  readonly at: number;
  /** The mutant's number; `undefined`: none is made. */
  readonly mutant: number | undefined;
}

/** What a process that runs tests on mutants is to do with one test file. */
export interface Order {
  /** The folder of the copy. */
  readonly root: string;
  /** The test file. */
  readonly path: string;
  /** Number of mutants. */
  readonly mutants: number;
  /** A mutant that is made from the loading of the file on; it is then that of every pair, and the first failure ends the run. */
  readonly whileLoading: number | undefined;
  /** In the order of their tests; `undefined`: every test once, without a mutant, to see which mutants it reaches. */
  readonly pairs: readonly Pair[] | undefined;
}

/** What such a process says. `pair` is the place in the order's pairs, or that of the test when it has none. */
export type Answer =
  | { readonly kind: 'started'; readonly pair: number }
  | {
      readonly kind: 'ended';
      readonly pair: number;
      readonly name: string;
      readonly ms: number;
      /** The test's error; `undefined`: it passed. */
      readonly error: string | undefined;
      /** The mutants that it reached; empty when the order has pairs. */
      readonly reached: readonly number[];
    }
  /** After this pair had failed, its test failed without the mutant as well: an earlier one has left something. Nothing follows. */
  | { readonly kind: 'spoilt'; readonly pair: number }
  /** All is done. `error`: why the file could not be run. `dirty`: tests have left timers and the like. */
  | {
      readonly kind: 'done';
      readonly error: string | undefined;
      readonly dirty: boolean;
      /** The mutants that were reached outside of tests; empty when the order has pairs. */
      readonly reached: readonly number[];
    };

/** What the environment and the process around it share: Jest loads the environment in the realm of the process. */
export interface Shared {
  readonly order: Order;
  readonly answer: (answer: Answer) => void;
  /** The mutants that were reached outside of tests. */
  readonly outside: Uint8Array;
}

/** The error of a test that waits although nothing is left that could wake it. */
export const STUCK = 'it waits for ever';

const KEY = Symbol.for('godwit.mutants');

export function share(shared: Shared): void {
  (globalThis as Record<symbol, unknown>)[KEY] = shared;
}

export function shared(): Shared {
  return (globalThis as Record<symbol, unknown>)[KEY] as Shared;
}

/** The places of the flags that are set. */
export function ones(flags: Uint8Array): number[] {
  return [...flags.keys()].filter((number) => flags[number] === 1);
}

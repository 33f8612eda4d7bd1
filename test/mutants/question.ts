/** What a process that runs tests on mutants is to do in one run, and what it has found. */
export interface TestRun {
  /** The mutant that is made; `undefined`: none, to see which mutants each test reaches. */
  readonly mutant: number | undefined;
  /** Number of mutants. */
  readonly mutants: number;
  /** The tests to run, by their place in the file from 0; `undefined`: all. */
  readonly only: readonly number[] | undefined;
}

/** What the tests of one file have shown. */
export interface Observed {
  /** Each test that was run. */
  readonly tests: { readonly name: string; readonly at: number; readonly ms: number }[];
  /** The mutants that each test reached, by the test's place in the file. */
  readonly reached: Map<number, Uint8Array>;
  /** The mutants that were reached while the file was loaded. */
  readonly whileLoading: Uint8Array;
  /** The first test that failed, and why. */
  failed: { readonly name: string; readonly at: number; readonly why: string } | undefined;
}

/** What the environment and the process around it share: Jest loads the environment in the realm of the process. */
export interface Shared extends TestRun {
  readonly observed: Observed;
  /** Called when a test waits although nothing is left that could wake it. */
  readonly onStuck: (test: { readonly name: string; readonly at: number }) => void;
}

const KEY = Symbol.for('godwit.mutants');

export function share(shared: Shared): void {
  (globalThis as Record<symbol, unknown>)[KEY] = shared;
}

export function shared(): Shared {
  return (globalThis as Record<symbol, unknown>)[KEY] as Shared;
}

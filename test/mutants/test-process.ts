import { runCLI } from 'jest';
import { type Observed, share, type TestRun } from './question.js';

/**
 * The process that runs test files on mutants: one file for each message of its parent. Jest runs inside of it, since starting
 * Jest takes longer than most tests.
 */

/** To this process. */
export interface Order extends TestRun {
  /** The folder of the copy. */
  readonly root: string;
  /** The test file. */
  readonly path: string;
  /** After this many milliseconds Jest ends a test that waits for a timer. */
  readonly testTimeout: number;
}

/** From this process. */
export interface Answer {
  readonly tests: Observed['tests'];
  /** Each test's place, and the numbers of the mutants that it reached. Only without a mutant. */
  readonly reached: readonly (readonly [number, readonly number[]])[];
  readonly whileLoading: readonly number[];
  readonly failed: { readonly name: string; readonly at: number; readonly why: string } | undefined;
  /** Timers and the like that tests have left: the process may not run another mutant. */
  readonly dirty: boolean;
}

process.on('message', (order: Order) => void obey(order));
// Errors of a test that was ended come too late for Jest.
process.on('unhandledRejection', () => {});

async function obey({ root, path, testTimeout, ...run }: Order): Promise<void> {
  const empty = (): Uint8Array => new Uint8Array(run.mutants);
  const before = process.getActiveResourcesInfo().length;
  const observed: Observed = { tests: [], reached: new Map(), whileLoading: empty(), failed: undefined };
  let answered = false;
  const answer = (failed: Answer['failed'], dirty: boolean): void => {
    if (answered) return;
    answered = true;
    const reached = run.mutant === undefined ? [...observed.reached] : [];
    process.send?.({
      tests: observed.tests,
      reached: reached.map(([at, flags]) => [at, ones(flags)] as const),
      whileLoading: run.mutant === undefined ? ones(observed.whileLoading) : [],
      failed,
      dirty,
    } satisfies Answer);
  };
  share({ ...run, observed, onStuck: (test) => answer({ ...test, why: 'it waits for ever' }, true) });
  const config = {
    rootDir: root,
    testEnvironment: new URL('environment.js', import.meta.url).pathname,
    testMatch: ['<rootDir>/packages/core/dist-test/**/*.test.js'],
    transform: {},
    testTimeout,
  };
  const { results } = await runCLI(
    {
      $0: '',
      _: [path],
      runTestsByPath: true,
      runInBand: true,
      reporters: [],
      silent: true,
      watchman: false,
      cache: false,
      config: JSON.stringify(config),
    },
    [root],
  );
  const broken = results.testResults.find(({ testExecError }) => testExecError !== undefined);
  const loading = { name: 'the file', at: -1, why: broken?.failureMessage ?? 'no test ran' };
  const failed = observed.failed ?? (results.success ? undefined : loading);
  answer(failed, process.getActiveResourcesInfo().length > before);
}

function ones(flags: Uint8Array): number[] {
  return [...flags.keys()].filter((number) => flags[number] === 1);
}

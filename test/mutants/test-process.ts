import { runCLI } from 'jest';
import { type Answer, type Order, ones, share } from './order.js';

/**
 * The process that runs test files on mutants: one file for each message of its parent. Jest runs inside of it, since starting
 * Jest takes longer than most tests.
 */

/**
 * After this many milliseconds Jest ends a test that waits for a timer of the machine's clock: the first is with a mutant, the
 * second without, where the test must not fail even on a busy machine. Such tests take milliseconds.
 */
const WITH_MUTANT_MS = 60_000;
const WITHOUT_MS = 600_000;

process.on('message', (order: Order) => void obey(order));
process.on('disconnect', () => process.exit());
// An error that comes after its test has ended is too late for Jest, and is ignored.
process.on('unhandledRejection', () => {});

async function obey(order: Order): Promise<void> {
  const before = process.getActiveResourcesInfo().length;
  const answer = (one: Answer): void => void process.send?.(one);
  const outside = new Uint8Array(order.mutants);
  share({ order, answer, outside });
  const config = {
    rootDir: order.root,
    testEnvironment: new URL('environment.js', import.meta.url).pathname,
    testMatch: ['<rootDir>/packages/core/dist-test/**/*.test.js'],
    transform: {},
    testTimeout: order.pairs === undefined ? WITHOUT_MS : WITH_MUTANT_MS,
  };
  const { results } = await runCLI(
    {
      $0: '',
      _: [order.path],
      runTestsByPath: true,
      runInBand: true,
      reporters: [],
      silent: true,
      watchman: false,
      cache: false,
      config: JSON.stringify(config),
    },
    [order.root],
  );
  const [file] = results.testResults;
  const broken = results.numTotalTests === 0 ? (file?.failureMessage ?? 'no test was found') : undefined;
  const dirty = process.getActiveResourcesInfo().length > before;
  answer({ kind: 'done', error: broken, dirty, reached: order.pairs === undefined ? ones(outside) : [] });
}

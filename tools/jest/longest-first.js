import sequencer from '@jest/test-sequencer';

/** The types are those of the package's CommonJS half, whose default export is one further in. */
const TestSequencer = /** @type {typeof sequencer.default} */ (/** @type {unknown} */ (sequencer));

/**
 * Ends of the paths of test files that take many times as long as most, the longest first. test/unit/test-rules.test.ts holds that
 * there are such files.
 */
export const LONG = [
  'test/dist/unit/schedules-going-back.test.js',
  'packages/core/dist-test/simulation/simulate.test.js',
  'packages/workers/dist-test/on-workers.test.js',
  'packages/godwit/dist-test/simulate.test.js',
  'test/dist/unit/schedules.test.js',
  'packages/core/dist-test/policy-properties.test.js',
  'packages/workers/dist-test/missing-link.test.js',
  'examples/node-vmm/dist-test/migratable-machine.test.js',
  'examples/node-vmm/dist-test/machine.test.js',
  'packages/core/dist-test/device-streams.test.js',
  'packages/observe/dist-test/live-page.test.js',
  'packages/core/dist-test/estimates.test.js',
  'packages/core/dist-test/every-byte.test.js',
  'packages/core/dist-test/policy-decisions.test.js',
];

/**
 * Starts the longest test files first. Where Jest has not run before, as on CI, it goes by the size of the files: the longest are among
 * the smallest, and the other cores would wait for the one that was started last.
 */
export default class LongestFirst extends TestSequencer {
  /**
   * @override
   * @param {import('@jest/test-result').Test[]} tests
   */
  async sort(tests) {
    const sorted = await super.sort(tests);
    const rank = (/** @type {import('@jest/test-result').Test} */ { path }) => {
      const at = LONG.findIndex((end) => path.endsWith(end));
      return at === -1 ? LONG.length : at;
    };
    return sorted.sort((one, other) => rank(one) - rank(other));
  }
}

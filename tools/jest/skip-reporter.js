import { appendFileSync } from 'node:fs';
import { relative } from 'node:path';

/**
 * Shows every skipped test after the run, and makes the run fail if a skipped test does not give a reason. The reason
 * stands at the end of the test's name or of a `describe` around it: `(skipped: no /dev/kvm)`.
 *
 * With `TALLY_FILE` in the environment it also appends the run's counts to that file, one JSON line a run: .ci/run adds
 * them up.
 */
export default class SkipReporter {
  #globalConfig;
  /** @type {string[]} */
  #withoutReason = [];

  /** @param {import('jest').Config & { rootDir: string, testNamePattern?: string }} globalConfig */
  constructor(globalConfig) {
    this.#globalConfig = globalConfig;
  }

  /**
   * @param {unknown} _contexts
   * @param {import('@jest/test-result').AggregatedResult} results
   */
  onRunComplete(_contexts, results) {
    const skipped = results.testResults.flatMap((file) =>
      file.testResults
        .filter(({ status }) => status !== 'passed' && status !== 'failed')
        .map(({ fullName }) => `${relative(this.#globalConfig.rootDir, file.testFilePath)}: ${fullName}`),
    );
    // With -t all other tests count as pending, which the user asked for.
    if (this.#globalConfig.testNamePattern === undefined || this.#globalConfig.testNamePattern === '') {
      this.#withoutReason = skipped.filter((name) => !/\(skipped: [^)]+\)/.test(name));
      for (const name of skipped) {
        const missing = this.#withoutReason.includes(name) ? '  ✗ its name does not say why: "(skipped: reason)"' : '';
        process.stderr.write(`○ skipped  ${name}${missing}\n`);
      }
    }
    const tally = process.env['TALLY_FILE'];
    if (tally !== undefined) {
      const brokenFiles = results.testResults.filter(
        (file) => file.testExecError !== undefined && file.numFailingTests === 0,
      ).length;
      const counts = {
        passed: results.numPassedTests,
        failed: results.numFailedTests + brokenFiles + this.#withoutReason.length,
        skipped,
      };
      appendFileSync(tally, `${JSON.stringify(counts)}\n`);
    }
  }

  getLastError() {
    if (this.#withoutReason.length === 0) return undefined;
    return new Error(`skipped without a reason in the name: ${this.#withoutReason.join(', ')}`);
  }
}

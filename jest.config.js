/**
 * Tests are compiled by `tsc -b` and import the built packages by name: what is tested is what ships.
 * The longer suites in test/ run with the same settings and another --testMatch: see the scripts in package.json.
 */
export default {
  testEnvironment: '<rootDir>/tools/jest/open-handles-environment.js',
  setupFiles: ['<rootDir>/tools/jest/property-seed.js'],
  testSequencer: '<rootDir>/tools/jest/longest-first.js',
  reporters: ['default', '<rootDir>/tools/jest/skip-reporter.js'],
  testMatch: [
    '<rootDir>/{packages,examples}/*/dist-test/**/*.test.js',
    '<rootDir>/{test/dist/unit,bench/dist/test}/**/*.test.js',
  ],
  transform: {},
  modulePathIgnorePatterns: ['<rootDir>/.*/dist/package.json', '<rootDir>/.cache/'],
  maxWorkers: '100%',
  // Setting it makes Jest always use worker processes, so that a handle left open cannot keep the whole run from ending.
  workerIdleMemoryLimit: '1GB',
  // A test that hangs must end, one that shares two cores with a compiler must not fail: never a measurement.
  testTimeout: 60_000,
};

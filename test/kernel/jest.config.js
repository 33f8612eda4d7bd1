/**
 * For Jest inside the test machine, where the processor is emulated and files come over 9p: this configuration reads as
 * few files as possible, and uses one process.
 */
export default {
  rootDir: '../..',
  roots: ['<rootDir>/test/dist/kernel'],
  testMatch: ['<rootDir>/test/dist/kernel/**/*.test.js'],
  testEnvironment: '<rootDir>/tools/jest/open-handles-environment.js',
  reporters: ['default', '<rootDir>/tools/jest/skip-reporter.js'],
  transform: {},
  cache: false,
  maxWorkers: 1,
  testTimeout: 60_000,
};

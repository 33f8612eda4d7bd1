/** Tests are compiled by `tsc -b` and import the built packages by name: what is tested is what ships. */
export default {
  testEnvironment: 'node',
  testMatch: ['<rootDir>/{packages,examples}/*/dist-test/**/*.test.js', '<rootDir>/test/dist/unit/**/*.test.js'],
  transform: {},
  modulePathIgnorePatterns: ['<rootDir>/.*/dist/package.json'],
};

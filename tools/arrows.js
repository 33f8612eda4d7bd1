/**
 * The imports that are allowed between the packages (the arrows); circles are not. `npm run check:arrows` applies it
 * with dependency-cruiser; type-only imports, `export ... from` and `import()` count as imports.
 *
 * A package is imported by its name, so it resolves to its built entry point: run `npm run build` first.
 */

const CORE = '^packages/core/dist/';
const TRANSPORT = '^packages/transport/dist/';
const LINUX = '^packages/linux/dist/';
const VFIO = '^packages/vfio/dist/';
const WORKERS = '^packages/workers/dist/';
const OBSERVE = '^packages/observe/dist/';

/**
 * A pattern for the path of an installed package, in any node_modules folder.
 * @param {string} name
 */
const installed = (name) => `(^|/)node_modules/${name}/`;

/** What the sources of a package may import beside their own files. `node` stands for Node's own modules. */
const ALLOWED = [
  { package: 'packages/core', allowed: [installed('rxjs')], node: false },
  {
    package: 'packages/transport',
    allowed: [CORE, installed('rxjs'), installed('msgpackr'), installed('lz4-napi'), installed('(@types/)?ws')],
    node: true,
  },
  { package: 'packages/linux', allowed: [CORE, installed('rxjs'), installed('koffi')], node: true },
  { package: 'packages/vfio', allowed: [CORE, LINUX, installed('rxjs')], node: true },
  { package: 'packages/workers', allowed: [CORE, TRANSPORT, LINUX], node: true },
  {
    package: 'packages/observe',
    allowed: [CORE, installed('rxjs'), installed('uplot'), installed('prom-client'), installed('@opentelemetry/api')],
    node: true,
  },
  {
    package: 'packages/godwit',
    allowed: [CORE, TRANSPORT, LINUX, VFIO, WORKERS, OBSERVE, installed('echarts')],
    node: true,
  },
];

/** What the tests of a package may import beside their own files: their package, those below it, and test tools. */
const TEST_TOOLS = [installed('@jest/globals'), installed('fast-check'), installed('rxjs')];
const ALLOWED_IN_TESTS = [
  { package: 'packages/core', allowed: [CORE] },
  { package: 'packages/transport', allowed: [CORE, TRANSPORT, installed('msgpackr'), installed('(@types/)?ws')] },
  { package: 'packages/linux', allowed: [CORE, LINUX, installed('koffi')] },
  { package: 'packages/vfio', allowed: [CORE, LINUX, VFIO] },
  { package: 'packages/godwit', allowed: [CORE, TRANSPORT, LINUX, VFIO, WORKERS, OBSERVE, '^packages/godwit/dist/'] },
  { package: 'packages/workers', allowed: [CORE, TRANSPORT, LINUX, WORKERS] },
  {
    package: 'packages/observe',
    allowed: [
      ...[CORE, OBSERVE, installed('playwright-core'), installed('axe-core')],
      ...[installed('prom-client'), installed('@opentelemetry/[a-z-]+')],
    ],
  },
];

const sourceRules = ALLOWED.map(({ package: folder, allowed, node }) => ({
  name: `${folder.replace('packages/', '')}-imports`,
  comment: `What ${folder} may import is listed in tools/arrows.js; arrows point down only.`,
  severity: 'error',
  from: { path: `^${folder}/src/` },
  to: { pathNot: [`^${folder}/src/`, ...allowed], ...(node ? { dependencyTypesNot: ['core'] } : {}) },
}));

const testRules = ALLOWED_IN_TESTS.map(({ package: folder, allowed }) => ({
  name: `${folder.replace('packages/', '')}-test-imports`,
  comment: `Tests import the built package by name, and nothing that stands above it.`,
  severity: 'error',
  from: { path: `^${folder}/test/` },
  to: { pathNot: [`^${folder}/test/`, ...TEST_TOOLS, ...allowed], dependencyTypesNot: ['core'] },
}));

export default {
  forbidden: [
    ...sourceRules,
    ...testRules,
    {
      name: 'page-imports',
      comment: 'What runs in a browser, and in a report in one scope, imports itself and the form of the data.',
      severity: 'error',
      from: { path: '^packages/observe/src/page/' },
      to: { pathNot: ['^packages/observe/src/(page|model)/', installed('uplot')] },
    },
    {
      name: 'no-circle',
      comment: 'A circle, inside a package too, type-only imports included.',
      severity: 'error',
      from: {},
      to: { circular: true },
    },
    {
      name: 'not-by-path',
      comment: "Another workspace is imported by its name, never by a path into its files; a package's tests too.",
      severity: 'error',
      from: { path: '^(packages/[^/]+/(?:src|test)|examples/[^/]+/src|test|bench|tools)/' },
      to: { dependencyTypes: ['local'], dependencyTypesNot: ['aliased-workspace'], pathNot: '^$1/' },
    },
    {
      name: 'not-by-path-from-example-tests',
      comment: 'An example does not ship: its own tests may reach into it, but not into another workspace.',
      severity: 'error',
      from: { path: '^(examples/[^/]+)/test/' },
      to: { dependencyTypes: ['local'], dependencyTypesNot: ['aliased-workspace'], pathNot: '^$1/' },
    },
    {
      name: 'not-into-internals',
      comment: 'Only what a package lists in its `exports` can be imported; everything else does not resolve.',
      severity: 'error',
      from: {},
      to: { couldNotResolve: true },
    },
    {
      name: 'examples-are-leaves',
      comment: 'Nobody imports an example, except test/ and bench/.',
      severity: 'error',
      from: { path: '^(packages|tools)/' },
      to: { path: '^examples/' },
    },
    {
      name: 'no-example-from-another',
      comment: 'Nobody imports an example, except its own tests, test/ and bench/.',
      severity: 'error',
      from: { path: '^examples/([^/]+)/' },
      to: { path: '^examples/', pathNot: '^examples/$1/' },
    },
    {
      name: 'nobody-imports-tests',
      comment: 'test/ and bench/ are imported by nobody.',
      severity: 'error',
      from: { path: '^(packages|examples|tools)/' },
      to: { path: '^(test|bench)/' },
    },
    {
      name: 'testing-is-for-tests',
      comment: "What a package exports for tests is not used by the package's own code.",
      severity: 'error',
      from: { path: '^packages/[^/]+/src/', pathNot: '^packages/[^/]+/src/testing/' },
      to: { path: '^packages/[^/]+/(src|dist)/testing/' },
    },
  ],
  options: {
    // swc reads TypeScript without TypeScript's own JavaScript API, which TypeScript 7 no longer has.
    parser: 'swc',
    tsPreCompilationDeps: true,
    doNotFollow: { path: ['(^|/)node_modules/', '^(packages|examples)/[^/]+/dist/'] },
    exclude: { path: ['^(test|bench)/dist/', '^(packages|examples)/[^/]+/dist-test/'] },
    enhancedResolveOptions: {
      exportsFields: ['exports'],
      conditionNames: ['import', 'node', 'default'],
      extensions: ['.ts', '.js', '.json'],
    },
  },
};

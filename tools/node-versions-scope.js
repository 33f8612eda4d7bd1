/**
 * Which test files `npm run test:node-versions -- --others` runs, by the start of their path, and why. The first row that fits decides.
 * test/unit/node-versions.test.ts holds that each test file fits a row, and that each row decides over a file.
 *
 * A test runs there when what it looks at can differ between versions of Node: its modules, its FFI, its threads, its command
 * line. What only computes goes by ECMAScript alone, and the version under which `tests` runs is the oldest that is supported.
 */

/**
 * @typedef Row
 * @property {string} files Starts the path of the compiled test files, from the root of the repository.
 * @property {boolean} runs
 * @property {string} why
 */

const COMPUTES = 'computes from values that the test makes up: text, pictures, tables';
const ENGINE = 'the engine as a client of signals, streams and shared memory';

/** @type {readonly Row[]} */
export const SCOPE = [
  {
    files: 'packages/core/dist-test/abort-listeners.',
    runs: true,
    why: 'listeners that AbortSignal and EventTarget keep',
  },
  { files: 'packages/core/dist-test/migrate.', runs: true, why: ENGINE },
  { files: 'packages/core/dist-test/cancel.', runs: true, why: ENGINE },
  { files: 'packages/core/dist-test/page-queue', runs: true, why: 'Atomics over memory that threads share' },
  { files: 'packages/core/dist-test/shared-blocks.', runs: true, why: ENGINE },
  { files: 'packages/core/dist-test/connection', runs: true, why: ENGINE },
  { files: 'packages/core/dist-test/named-pages.', runs: true, why: 'a worker thread, and memory that it shares' },
  { files: 'packages/core/dist-test/failures.', runs: true, why: 'causes and stacks of errors' },
  {
    files: 'packages/core/dist-test/processor-time.',
    runs: true,
    why: 'the way to a module of Node without an import',
  },
  { files: 'packages/core/dist-test/digest-', runs: true, why: 'WebAssembly' },
  { files: 'packages/core/dist-test/write-a', runs: true, why: 'modules that are loaded as an embedder loads them' },
  {
    files: 'packages/core/dist-test/',
    runs: false,
    why: 'packages/core names nothing of Node (tools/arrows.js), and its time is virtual; whole migrations run in the other packages',
  },

  {
    files: 'packages/linux/dist-test/',
    runs: true,
    why: 'koffi: calls, callbacks and structures by the ABI of the running Node',
  },

  {
    files: 'packages/transport/dist-test/frames.property.',
    runs: false,
    why: 'many frames; frames.test.js has each kind once',
  },
  {
    files: 'packages/transport/dist-test/snapshot-damage.',
    runs: false,
    why: 'the same reader as in snapshot.test.js, over many files',
  },
  {
    files: 'packages/transport/dist-test/',
    runs: true,
    why: 'sockets, TLS, HTTP, zlib, files, child processes, message ports',
  },

  {
    files: 'packages/workers/dist-test/',
    runs: true,
    why: 'worker threads: how they start, end, fail, and share memory',
  },

  { files: 'packages/vfio/dist-test/descriptor.', runs: true, why: 'descriptors of real files' },
  { files: 'packages/vfio/dist-test/layouts.', runs: true, why: 'structures that koffi lays out' },
  { files: 'packages/vfio/dist-test/vfio-migration.', runs: true, why: 'a whole migration of a device' },
  {
    files: 'packages/vfio/dist-test/',
    runs: false,
    why: 'a model of the kernel in JavaScript answers, and its calls go no further',
  },

  {
    files: 'packages/observe/dist-test/live-page.',
    runs: false,
    why: 'the page runs in a browser; page-server.test.js has the server',
  },
  { files: 'packages/observe/dist-test/bounded-lists.', runs: false, why: COMPUTES },
  { files: 'packages/observe/dist-test/model-builder.', runs: false, why: COMPUTES },
  { files: 'packages/observe/dist-test/quantity.', runs: false, why: COMPUTES },
  {
    files: 'packages/observe/dist-test/',
    runs: true,
    why: 'an HTTP server, diagnostics channels, and who listens to them',
  },

  { files: 'packages/godwit/dist-test/inspect', runs: false, why: COMPUTES },
  {
    files: 'packages/godwit/dist-test/simulate',
    runs: false,
    why: 'test-node-versions.js compares a whole simulation byte by byte',
  },
  { files: 'packages/godwit/dist-test/report.', runs: false, why: COMPUTES },
  { files: 'packages/godwit/dist-test/', runs: true, why: 'a command: arguments, files, signals, exit status' },

  { files: 'examples/node-vmm/dist-test/demo/', runs: false, why: COMPUTES },
  { files: 'examples/node-vmm/dist-test/', runs: true, why: 'KVM through koffi on threads, child processes, sockets' },

  { files: 'bench/dist/test/', runs: true, why: "Node's inspector and its profiles, sockets" },

  {
    files: 'test/dist/unit/write-a-transport.',
    runs: true,
    why: 'a transport over sockets, as the documentation shows it',
  },
  {
    files: 'test/dist/unit/',
    runs: false,
    why: 'reads documents and sources, runs tools of this repository, or plays schedules in virtual time',
  },
];

/**
 * The row that decides over a test file, given its path from the root of the repository.
 * @param {string} file
 */
export function rowOf(file) {
  return SCOPE.find(({ files }) => file.startsWith(files));
}

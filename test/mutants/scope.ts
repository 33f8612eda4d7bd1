import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';

/** Sources whose mutants are tried, and the tests that are run on them. */
export interface Scope {
  /** Files, or folders with all files in them, below packages/core/src. */
  readonly sources: readonly string[];
  /** Files of packages/core/test, without `.test.ts`. The tests that were written for these sources come first. */
  readonly tests: readonly string[];
}

/** The tests of whole migrations by post-copy. */
const POSTCOPY = ['postcopy-given-up', 'postcopy-paused'];

/** The tests of a destination whose guest runs before its pages are there. */
const ARRIVING_EARLY = ['postcopy-arriving', 'run-at-once', 'postcopy-hostile'];

/** Tests of whole migrations between two sides in one process; each file takes about a second. */
const MIGRATIONS = [
  'dry-run',
  'migrate',
  'device-release',
  'hanging-vm',
  'run-state',
  'failures',
  'go-back',
  'garbled-hand-over',
  'ownership-authority',
  'settlement',
];

const DESTINATION = [
  ...MIGRATIONS,
  ...POSTCOPY,
  ...ARRIVING_EARLY,
  'destination-receive',
  'destination-answers',
  'destination-prepare',
  'destination-channels',
  'destination-recover',
  'destination-release',
  'destination-set-up',
  'destination-dry-run',
  'claimed-parts',
  'device-state',
  'hostile-hello',
  'hostile-source',
  'unmovable-memory',
  'readiness',
  'role-events',
];

/**
 * The files in which a mistake can lose a guest. A file belongs to the first row that names it or its folder.
 *
 * Each row leaves out tests that reach its sources too but take long: a mistake that only these tests notice is also found
 * late in daily work.
 */
export const SCOPE: readonly Scope[] = [
  { sources: ['session/pings.ts'], tests: ['pings', 'connection'] },
  { sources: ['session/first-cause.ts'], tests: ['first-cause', 'failures'] },
  {
    sources: ['session/closing-message.ts'],
    tests: ['closing-message', 'connection-closing', 'connection', 'failures'],
  },
  { sources: ['session/retry.ts'], tests: ['retry', 'failures', 'settlement'] },
  { sources: ['session/keepalive.ts', 'session/checks.ts'], tests: ['keepalive', 'connection'] },
  {
    sources: ['session'],
    tests: [
      'connection',
      'connection-closing',
      'closing-message',
      ...MIGRATIONS,
      'several-links',
      'hostile-destination',
    ],
  },
  {
    sources: ['claim'],
    tests: [
      'claim',
      'claim-memory',
      'claimed-parts',
      'shared-blocks',
      'unmovable-memory',
      'failures',
      'ownership-authority',
      'settlement',
    ],
  },
  { sources: ['ownership'], tests: ['ownership', 'ownership-authority', 'settlement', 'garbled-hand-over'] },
  { sources: ['source/phases/background.ts'], tests: ['background'] },
  {
    sources: ['source/phases'],
    tests: [
      ...MIGRATIONS,
      ...POSTCOPY,
      'postcopy-hostile',
      'pre-copy',
      'source-restart',
      'paused-steps',
      'pause-rehearsal',
      'pages-after-early-load',
      'attempts',
      'source-release',
      'source-set-up',
      'unmovable-memory',
      'harvest-restart',
      'claimed-parts',
      'device-state',
      'tracker-failures',
      'pause-before-switchover',
      'readiness',
      'role-events',
      'broken-on-purpose',
      'hostile-destination',
      'background',
      'pause-call',
      'listeners-of-attempts',
      'tell-missing',
      'postcopy-named',
      'named-free',
    ],
  },
  {
    sources: ['queue'],
    tests: ['page-queue', 'page-queue-words', 'round-takers', 'round-batches', 'in-round', 'link-loss'],
  },
  { sources: ['sink'], tests: ['choose-sink', 'page-path'] },
  {
    sources: ['destination/phases/post-copy.ts'],
    tests: [...ARRIVING_EARLY, ...POSTCOPY, 'send-missing', 'postcopy-bandwidth'],
  },
  { sources: ['destination/phases'], tests: DESTINATION },
];

/** All files in scope, as paths below packages/core/src. */
export function sourcesOf(repository: string): string[] {
  const root = join(repository, 'packages', 'core', 'src');
  const files = SCOPE.flatMap(({ sources }) => sources).flatMap((source) =>
    statSync(join(root, source)).isFile()
      ? [source]
      : readdirSync(join(root, source)).map((name) => `${source}/${name}`),
  );
  return [...new Set(files)].sort();
}

/** The tests to run on mutants of a file, which is a path below packages/core/src. */
export function testsOf(file: string): readonly string[] {
  return (
    SCOPE.find(({ sources }) => sources.some((source) => file === source || file.startsWith(`${source}/`)))?.tests ?? []
  );
}

/** How one test of a selftest ended. */
export type Outcome = 'ok' | 'not ok' | 'skip';

export interface TestResult {
  readonly name: string;
  readonly outcome: Outcome;
  /** What it has said about its failure. */
  readonly why?: string;
}

/** What a selftest has printed and its exit status. */
export interface SelftestOutput {
  readonly text: string;
  readonly status: number;
}

/** The exit status of a selftest that cannot run (tools/testing/selftests/kselftest.h: KSFT_SKIP). */
const SKIPPED = 4;

/** `ok 3 iommufd.simple # SKIP why`, of the Test Anything Protocol, as kselftest.h and kselftest_harness.h print it. */
const TAP_LINE = /^(ok|not ok) \d+ (.*?)(?:\s+# (SKIP|XFAIL)\b.*)?$/;
/** Older ones have it before the name. */
const SKIP_FIRST = /^# SKIP /;
/** `# iommufd.c:767:area_auto_iova:Expected 0 (0) == 1 (1)`, or `# failed reason: [...]`. */
const WHY_LINE = /^#\s+((?:[\w-]+\.[ch]:\d+:|failed reason:).*)$/;
/** `Testing wp-fork on anon... done`, as userfaultfd's tests of 6.12 print it. */
const TESTING_LINE = /^Testing (.+)\.\.\. (done|skipped|failed)(?: \[reason: (.*)\])?/;

/**
 * The tests that a selftest ran. A selftest that prints none of them (KVM's) is one test by itself, named `name`: its exit status
 * decides. One that ends early, with tests it has announced and not reported, fails by that. The text may be of several runs.
 */
export function resultsOf(name: string, { text, status }: SelftestOutput): readonly TestResult[] {
  const results: TestResult[] = [];
  let why: string | undefined;
  for (const line of text.split('\n').map((one) => one.trimEnd())) {
    const result = resultIn(line);
    if (result === undefined) {
      why ??= WHY_LINE.exec(line)?.[1];
      continue;
    }
    results.push(result.outcome === 'not ok' && why !== undefined ? { ...result, why } : result);
    why = undefined;
  }
  if (results.length === 0) {
    return [{ name, outcome: status === 0 ? 'ok' : status === SKIPPED ? 'skip' : 'not ok' }];
  }
  const plans = [...text.matchAll(/^1\.\.(\d+)$/gm)].map(([, count]) => Number(count));
  const planned = plans.length === 0 ? results.length : plans.reduce((sum, count) => sum + count, 0);
  const ended = results.length >= planned && (status === 0 || results.some(({ outcome }) => outcome === 'not ok'));
  const missing = `${name}: ${planned - results.length} of ${planned} tests, it ended with status ${status}`;
  // Of one run all count, also those with one name.
  const once = plans.length === 1 ? results : onceEach(results);
  return ended || status === SKIPPED ? once : [...once, { name: missing, outcome: 'not ok' }];
}

/** One result for each name, a failure before anything else: a selftest that is run in parts may run a test twice. */
function onceEach(results: readonly TestResult[]): TestResult[] {
  const byName = new Map<string, TestResult>();
  for (const result of results) {
    if (result.outcome === 'not ok' || !byName.has(result.name)) byName.set(result.name, result);
  }
  return [...byName.values()];
}

function resultIn(line: string): TestResult | undefined {
  const [, tap, tapName, note] = TAP_LINE.exec(line) ?? [];
  if (tap !== undefined) {
    const skipped = note === 'SKIP' || SKIP_FIRST.test(tapName as string);
    const outcome = skipped ? 'skip' : tap === 'ok' ? 'ok' : 'not ok';
    return { name: (tapName as string).replace(SKIP_FIRST, ''), outcome };
  }
  const [, testing, end, reason] = TESTING_LINE.exec(line) ?? [];
  if (testing === undefined) return undefined;
  if (end !== 'failed') return { name: testing, outcome: end === 'done' ? 'ok' : 'skip' };
  return { name: testing, outcome: 'not ok', ...(reason === undefined ? {} : { why: reason }) };
}

export interface Counts {
  readonly ok: number;
  readonly notOk: number;
  readonly skip: number;
}

export function countsOf(results: readonly TestResult[]): Counts {
  const of = (outcome: Outcome) => results.filter((result) => result.outcome === outcome).length;
  return { ok: of('ok'), notOk: of('not ok'), skip: of('skip') };
}

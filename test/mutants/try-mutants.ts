import { join } from 'node:path';
import type { Copy } from './copy.js';
import { idOf, type Mutant } from './mutant.js';
import { testsOf } from './scope.js';
import type { Answer } from './test-process.js';
import { TestRunner } from './test-runner.js';

/** What became of a mutant. */
export interface Verdict {
  readonly mutant: Mutant;
  readonly id: string;
  /** The test that failed, `ping.test.js: a ping is answered`, and its error; `undefined`: the mutant survived. */
  readonly killed: { readonly by: string; readonly why: string } | undefined;
  /** Number of tests that reached the mutant and were run. With 0 no test reaches it. */
  readonly tests: number;
}

/** What the tests of a file do without a mutant. */
interface Baseline {
  readonly test: string;
  readonly ms: number;
  /** The tests that reach each mutant, by its number. */
  readonly reaching: ReadonlyMap<number, readonly number[]>;
}

export interface TrialOptions {
  readonly parallel: number;
  /** Runs the quickest tests first, for which all test files of a source are run once before. Worth it with many mutants. */
  readonly quickestFirst: boolean;
  readonly onVerdict: (verdict: Verdict) => void;
}

/** Tries mutants: runs the tests that reach each of them until one fails. */
export async function tryMutants(copy: Copy, numbers: readonly number[], options: TrialOptions): Promise<Verdict[]> {
  const trial = new Trial(copy, options);
  const left = [...numbers].reverse();
  const verdicts: Verdict[] = [];
  const work = async (): Promise<void> => {
    const runner = new TestRunner(copy.root);
    try {
      for (let number = left.pop(); number !== undefined; number = left.pop()) {
        const verdict = await trial.verdictOf(number, runner);
        verdicts.push(verdict);
        options.onVerdict(verdict);
      }
    } finally {
      // When one has failed, the others end too.
      left.length = 0;
      runner.close();
    }
  };
  await Promise.all(Array.from({ length: options.parallel }, work));
  return verdicts;
}

class Trial {
  readonly #copy: Copy;
  readonly #quickestFirst: boolean;
  readonly #baselines = new Map<string, Promise<Baseline>>();
  /** Tests that were seen to pass alone and without a mutant. */
  readonly #sound = new Set<string>();

  constructor(copy: Copy, { quickestFirst }: TrialOptions) {
    this.#copy = copy;
    this.#quickestFirst = quickestFirst;
  }

  async verdictOf(number: number, runner: TestRunner): Promise<Verdict> {
    const mutant = this.#copy.mutants[number] as Mutant;
    const id = idOf(mutant);
    let tests = 0;
    for await (const { test, ms, reaching } of this.#inOrder(mutant, number, runner)) {
      const only = reaching.get(number) ?? [];
      if (only.length === 0) continue;
      const answer = await this.#run(runner, test, { mutant: number, only }, ms);
      tests += only.length;
      if (answer.failed === undefined) continue;
      await this.#checkSound(runner, test, answer.failed, ms);
      return { mutant, id, killed: { by: `${test}: ${answer.failed.name}`, why: answer.failed.why }, tests };
    }
    return { mutant, id, killed: undefined, tests };
  }

  /** The test files of a mutant's source, in the order in which they are run. */
  async *#inOrder(mutant: Mutant, number: number, runner: TestRunner): AsyncGenerator<Baseline> {
    const tests = testsOf(mutant.file);
    if (!this.#quickestFirst) {
      for (const test of tests) yield await this.#baseline(test, runner);
      return;
    }
    const all: Baseline[] = [];
    for (const test of tests) all.push(await this.#baseline(test, runner));
    const cost = ({ ms, reaching }: Baseline): number => (reaching.has(number) ? ms : 0);
    yield* all.sort((a, b) => cost(a) - cost(b));
  }

  #baseline(test: string, runner: TestRunner): Promise<Baseline> {
    let baseline = this.#baselines.get(test);
    if (baseline === undefined) {
      baseline = this.#measure(test, runner);
      this.#baselines.set(test, baseline);
    }
    return baseline;
  }

  async #measure(test: string, runner: TestRunner): Promise<Baseline> {
    const answer = await this.#run(runner, test, { mutant: undefined, only: undefined }, 10_000);
    if (answer.failed !== undefined) throw broken(test, answer.failed, 'without a mutant');
    const reaching = new Map<number, number[]>();
    const all = answer.tests.map(({ at }) => at);
    for (const [at, numbers] of answer.reached) {
      for (const number of numbers) reaching.set(number, [...(reaching.get(number) ?? []), at]);
    }
    // A constant of a module may matter to each test.
    for (const number of answer.whileLoading) reaching.set(number, all);
    return { test, ms: answer.tests.reduce((sum, { ms }) => sum + ms, 0), reaching };
  }

  /** A test that fails alone even without a mutant would kill every one. */
  async #checkSound(runner: TestRunner, test: string, { name, at }: Failed, ms: number): Promise<void> {
    const key = `${test} ${at}`;
    if (at === -1 || this.#sound.has(key)) return;
    const answer = await this.#run(runner, test, { mutant: undefined, only: [at] }, ms);
    if (answer.failed !== undefined) throw broken(`${test}, "${name}"`, answer.failed, 'alone and without a mutant');
    this.#sound.add(key);
  }

  #run(
    runner: TestRunner,
    test: string,
    what: { readonly mutant: number | undefined; readonly only: readonly number[] | undefined },
    ms: number,
  ): Promise<Answer> {
    const path = join(this.#copy.root, 'packages', 'core', 'dist-test', `${test}.test.js`);
    return runner.run({ ...what, path, mutants: this.#copy.mutants.length }, ms);
  }
}

type Failed = NonNullable<Answer['failed']>;

function broken(test: string, { name, why }: Failed, when: string): Error {
  return new Error(`${test} fails ${when} (${name}: ${why}): run \`npm test\` first`);
}

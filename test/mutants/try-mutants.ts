import { join } from 'node:path';
import type { Copy } from './copy.js';
import { idOf, type Mutant } from './mutant.js';
import type { Pair } from './order.js';
import { testsOf } from './scope.js';
import { type Ended, type Outcome, TestRunner } from './test-runner.js';

/** The result for one mutant. */
export interface Verdict {
  readonly mutant: Mutant;
  readonly id: string;
  /** The test that failed, `pings: a ping is answered`, and its error; `undefined`: the mutant survived. */
  readonly killed: { readonly by: string; readonly why: string } | undefined;
  /** Number of tests that reached the mutant and were run; 0 if no test reaches it. */
  readonly tests: number;
}

/** The results of a file's tests without a mutant. */
interface Baseline {
  readonly test: string;
  readonly ms: number;
  readonly names: readonly string[];
  /** The duration of each test. */
  readonly msOf: readonly number[];
  /** The tests that reach each mutant, by its number. */
  readonly reaching: ReadonlyMap<number, readonly number[]>;
  /** Mutants that must be active before the file is loaded: those in constants of modules. */
  readonly whileLoading: ReadonlySet<number>;
}

/** A mutant that has no verdict yet. */
interface Tried {
  killed: Verdict['killed'];
  tests: number;
}

export interface TrialOptions {
  /** Number of processes. */
  readonly parallel: number;
  /** Runs the quickest tests first, for which all test files of a source are run once before. This pays off only with many mutants. */
  readonly quickestFirst: boolean;
  readonly onVerdict: (verdict: Verdict) => void;
}

/** Mutants of one file that are tried together, as one unit of work of a process. */
const TOGETHER = 40;

/** Tries mutants: runs the tests that reach each of them until one fails. */
export async function tryMutants(copy: Copy, numbers: readonly number[], options: TrialOptions): Promise<Verdict[]> {
  const trial = new Trial(copy, options.quickestFirst);
  const batches = inBatches(copy, numbers);
  const verdicts: Verdict[] = [];
  const work = async (): Promise<void> => {
    const runner = new TestRunner(copy.root);
    try {
      for (let batch = batches.shift(); batch !== undefined; batch = batches.shift()) {
        for (const verdict of await trial.verdictsOn(batch, runner)) {
          verdicts.push(verdict);
          options.onVerdict(verdict);
        }
      }
    } finally {
      // When one process has failed, the others end too.
      batches.length = 0;
      runner.close();
    }
  };
  await Promise.all(Array.from({ length: options.parallel }, work));
  return verdicts;
}

function inBatches({ mutants }: Copy, numbers: readonly number[]): number[][] {
  const batches: number[][] = [];
  for (const number of numbers) {
    const last = batches.at(-1);
    const file = mutants[last?.[0] ?? -1]?.file;
    if (last !== undefined && last.length < TOGETHER && file === mutants[number]?.file) last.push(number);
    else batches.push([number]);
  }
  return batches;
}

class Trial {
  readonly #copy: Copy;
  readonly #quickestFirst: boolean;
  readonly #baselines = new Map<string, Promise<Baseline>>();

  constructor(copy: Copy, quickestFirst: boolean) {
    this.#copy = copy;
    this.#quickestFirst = quickestFirst;
  }

  /** `numbers` are mutants of one file. */
  async verdictsOn(numbers: readonly number[], runner: TestRunner): Promise<Verdict[]> {
    const tried = new Map(numbers.map((number) => [number, { killed: undefined, tests: 0 } as Tried]));
    const { file } = this.#copy.mutants[numbers[0] as number] as Mutant;
    for await (const baseline of this.#inOrder(file, runner)) {
      const left = numbers.filter((number) => tried.get(number)?.killed === undefined);
      if (left.length === 0) break;
      const { whileLoading, reaching } = baseline;
      const pairsOf = (mutant: number): Pair[] => (reaching.get(mutant) ?? []).map((at) => ({ at, mutant }));
      const pairs = left.filter((number) => !whileLoading.has(number)).flatMap(pairsOf);
      await this.#run(
        baseline,
        pairs.sort((a, b) => a.at - b.at),
        undefined,
        tried,
        runner,
      );
      for (const number of left.filter((one) => whileLoading.has(one))) {
        await this.#run(baseline, pairsOf(number), number, tried, runner);
      }
    }
    return [...tried].map(([number, { killed, tests }]) => {
      const mutant = this.#copy.mutants[number] as Mutant;
      return { mutant, id: idOf(mutant), killed, tests };
    });
  }

  /** The test files of a source, in the order in which they are run. */
  async *#inOrder(file: string, runner: TestRunner): AsyncGenerator<Baseline> {
    const tests = testsOf(file);
    if (!this.#quickestFirst) {
      for (const test of tests) yield await this.#baseline(test, runner);
      return;
    }
    const all: Baseline[] = [];
    for (const test of tests) all.push(await this.#baseline(test, runner));
    yield* all.sort((a, b) => a.ms - b.ms);
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
    const ended: Ended[] = [];
    const longest = () => LONGEST_FILE_MS;
    const outcome = await runner.run(this.#order(test, undefined, undefined), longest, (one) => ended.push(one));
    const failed = ended.find(({ error }) => error !== undefined);
    if (failed !== undefined) throw new Error(`${test} fails without a mutant: ${failed.name}: ${failed.error}`);
    if (outcome.kind !== 'done' || outcome.error !== undefined) {
      throw new Error(`${test} does not run without a mutant: ${JSON.stringify(outcome)}`);
    }
    const reaching = new Map<number, number[]>();
    for (const { pair, reached } of ended) {
      for (const number of reached) reaching.set(number, [...(reaching.get(number) ?? []), pair]);
    }
    // A constant of a module may affect every test.
    const all = ended.map(({ pair }) => pair);
    for (const number of outcome.reached) reaching.set(number, all);
    const names: string[] = [];
    const msOf: number[] = [];
    for (const one of ended) {
      names[one.pair] = one.name;
      msOf[one.pair] = one.ms;
    }
    const ms = ended.reduce((sum, one) => sum + one.ms, 0);
    return { test, ms, names, msOf, reaching, whileLoading: new Set(outcome.reached) };
  }

  /** Runs pairs of one test file, in several runs if one of them ends early. */
  async #run(
    { test, ms, names, msOf }: Baseline,
    pairs: readonly Pair[],
    whileLoading: number | undefined,
    tried: ReadonlyMap<number, Tried>,
    runner: TestRunner,
  ): Promise<void> {
    let left = pairs;
    while (left.length > 0) {
      const run = left;
      const kill = (at: number, why: string): void => {
        const pair = run[at];
        const one = tried.get(pair?.mutant ?? -1);
        if (one !== undefined) one.killed ??= { by: `${test}: ${names[pair?.at ?? -1] ?? 'loading it'}`, why };
      };
      // A test that has taken more than twice its time and some seconds counts as endless. The second time is that of its control.
      const expectedMs = (pair: number): number => (pair === -1 ? ms : 2 * (msOf[run[pair]?.at ?? -1] ?? ms));
      const outcome = await runner.run(this.#order(test, run, whileLoading), expectedMs, ({ pair, error }) => {
        const one = tried.get(run[pair]?.mutant ?? -1);
        if (one !== undefined) one.tests++;
        if (error !== undefined) kill(pair, error);
      });
      if (outcome.kind === 'done') {
        if (outcome.error !== undefined) kill(0, outcome.error);
        return;
      }
      left = await this.#afterEarlyEnd(outcome, test, run, whileLoading, tried, kill, runner);
    }
  }

  /** The pairs that are left of a run that ended early. */
  async #afterEarlyEnd(
    { kind, pair: at }: Exclude<Outcome, { kind: 'done' }>,
    test: string,
    run: readonly Pair[],
    whileLoading: number | undefined,
    tried: ReadonlyMap<number, Tried>,
    kill: (at: number, why: string) => void,
    runner: TestRunner,
  ): Promise<Pair[]> {
    if (at === -1 && whileLoading === undefined) throw new Error(`${test}: the process ended before the first test`);
    const last = run[Math.max(at, 0)] as Pair;
    const one = tried.get(last.mutant ?? -1) as Tried;
    if (kind === 'lost') {
      one.tests++;
      kill(Math.max(at, 0), LOST);
    } else if (at > 0) {
      // An earlier mutant may have made the test fail, so that this one is run again, in another process.
      one.killed = undefined;
      return stillNeeded(run.slice(at), tried);
    } else {
      await this.#checkSound(test, last.at, runner);
    }
    return stillNeeded(run.slice(Math.max(at, 0) + 1), tried);
  }

  /** Checks that a test passes alone without a mutant; otherwise it would kill every mutant. */
  async #checkSound(test: string, at: number, runner: TestRunner): Promise<void> {
    const order = this.#order(test, [{ at, mutant: undefined }], undefined);
    const failed: Ended[] = [];
    await runner.run(
      order,
      () => LONGEST_FILE_MS,
      (ended) => {
        if (ended.error !== undefined) failed.push(ended);
      },
    );
    for (const { name, error } of failed) {
      throw new Error(`${test}, "${name}" fails alone and without a mutant: ${error}`);
    }
  }

  #order(test: string, pairs: readonly Pair[] | undefined, whileLoading: number | undefined) {
    const path = join(this.#copy.root, 'packages', 'core', 'dist-test', `${test}.test.js`);
    return { path, pairs, whileLoading, mutants: this.#copy.mutants.length };
  }
}

const LOST = 'it came to no end, or ended the process';

/** The longest that a test file may take without a mutant. Milliseconds. */
const LONGEST_FILE_MS = 60_000;

function stillNeeded(pairs: readonly Pair[], tried: ReadonlyMap<number, Tried>): Pair[] {
  return pairs.filter(({ mutant }) => tried.get(mutant ?? -1)?.killed === undefined);
}

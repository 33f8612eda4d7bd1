import type { CaseResult } from './case-messages.js';
import type { SeriesEnd } from './case-queue.js';
import { describeLeftovers, growth, type Leftovers } from './leftovers.js';

/** Number of the slowest cases that are printed at the end. */
const SLOWEST = 5;

/** Prints the results of cases and counts them. */
export class FaultReport {
  readonly #seed: number;
  readonly #started = performance.now();
  readonly #times: { readonly name: string; readonly ms: number }[] = [];
  #cases = 0;
  #failed = 0;

  constructor(seed: number) {
    this.#seed = seed;
  }

  line(text: string): void {
    process.stdout.write(`${text}\n`);
  }

  /** Counts a case that has ended, and prints its problems. */
  case(name: string, { ending, problems, cases = 1 }: CaseResult, ms: number): void {
    this.#cases += cases;
    this.#times.push({ name, ms });
    if (problems.length === 0) return;
    this.#fail(`${name}: ${ending}`, problems);
    this.line(`  npm run test:faults -- --seed ${this.#seed} --only ${name}`);
  }

  series({ name, endings, summaries }: SeriesEnd): void {
    const counts = [...endings].sort(([, a], [, b]) => b - a);
    const total = counts.reduce((sum, [, count]) => sum + count, 0);
    const told = counts.map(([ending, count]) => `${count} ${ending}`).join('; ');
    this.line(summaries.length > 0 ? summaries.join('\n') : `${name}: ${total} cases: ${told}`);
  }

  /** Reports problems that belong to no case, unless `problems` is empty. */
  besides(what: string, problems: readonly string[]): void {
    if (problems.length > 0) this.#fail(what, problems);
  }

  /** Prints the resources that a worker held before and after its cases, and reports a problem if it holds more. */
  worker(number: number, before: Leftovers, after: Leftovers): void {
    this.line(`process ${number}, before: ${describeLeftovers(before)}`);
    this.line(`process ${number}, after:  ${describeLeftovers(after)}`);
    this.besides(`process ${number} kept something`, growth(before, after));
  }

  /** Prints the totals and sets the process's exit code. */
  end(): void {
    const seconds = (ms: number) => `${(ms / 1000).toFixed(1)} s`;
    const slowest = [...this.#times].sort((a, b) => b.ms - a.ms).slice(0, SLOWEST);
    this.line(`longest: ${slowest.map(({ name, ms }) => `${seconds(ms)} ${name}`).join(', ')}`);
    const sum = this.#times.reduce((total, { ms }) => total + ms, 0);
    this.line(`took ${seconds(performance.now() - this.#started)}, one after the other ${seconds(sum)}`);
    this.line(`${this.#cases} cases, ${this.#failed} failed, seed ${this.#seed}`);
    if (this.#failed > 0) process.exitCode = 1;
  }

  #fail(what: string, problems: readonly string[]): void {
    this.#failed++;
    this.line(`FAILED ${what}`);
    for (const problem of problems) this.line(`  ${problem}`);
  }
}

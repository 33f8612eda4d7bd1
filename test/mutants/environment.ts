import { TestEnvironment as NodeEnvironment } from 'jest-environment-node';
import { QUESTION } from './instrument.js';
import { type Shared, shared } from './question.js';

/** What is used here of the events and the state of Jest's runner. */
interface Block {
  readonly type: 'describeBlock';
  readonly name: string;
  readonly parent?: Block;
  readonly children: readonly (Block | Test)[];
}
interface Test {
  readonly type: 'test';
  readonly name: string;
  readonly parent: Block;
  readonly errors: readonly unknown[];
  mode?: 'skip' | 'only' | 'todo' | 'concurrent' | null;
}
interface State {
  readonly rootDescribeBlock: Block;
}
type Event =
  | { readonly name: 'run_start' }
  | {
      readonly name: 'test_start' | 'test_fn_start' | 'test_fn_success' | 'test_fn_failure' | 'test_done';
      readonly test: Test;
    };

/** How often a waiting test is looked at, and how often in a row nothing must be left that could wake it. */
const LOOK_MS = 20;
const LOOKS = 10;

/**
 * Jest's environment for Node, in which instrumented code finds out which mutant is made. It notes which mutants each test
 * reaches, runs only the tests that are asked for, and ends at the first one that fails.
 */
export default class MutantEnvironment extends NodeEnvironment {
  readonly #shared: Shared = shared();
  readonly #order = new Map<Test, number>();
  #reached: Uint8Array = this.#shared.observed.whileLoading;
  #startedAt = 0;
  #watch: NodeJS.Timeout | undefined;

  override async setup(): Promise<void> {
    await super.setup();
    const { mutant } = this.#shared;
    const question = (number: number): boolean => {
      this.#reached[number] = 1;
      return number === mutant;
    };
    (this.global as unknown as Record<string, unknown>)[QUESTION] = question;
  }

  override async teardown(): Promise<void> {
    clearInterval(this.#watch);
    await super.teardown();
  }

  handleTestEvent(event: Event, state: State): void {
    if (event.name === 'run_start') this.#choose(state);
    else if (event.name === 'test_start') this.#begin(event.test);
    else if (event.name === 'test_fn_start') this.#lookAt(event.test);
    else if (event.name === 'test_fn_success' || event.name === 'test_fn_failure') clearInterval(this.#watch);
    else if (event.name === 'test_done') this.#done(event.test);
  }

  #choose(state: State): void {
    const { only } = this.#shared;
    const wanted = only === undefined ? undefined : new Set(only);
    const visit = (block: Block): void => {
      for (const child of block.children) {
        if (child.type === 'describeBlock') {
          visit(child);
          continue;
        }
        const at = this.#order.size;
        this.#order.set(child, at);
        if (wanted !== undefined && !wanted.has(at)) child.mode = 'skip';
      }
    };
    visit(state.rootDescribeBlock);
  }

  #begin(test: Test): void {
    const { reached } = this.#shared.observed;
    const at = this.#at(test);
    this.#reached = reached.get(at) ?? new Uint8Array(this.#shared.mutants);
    reached.set(at, this.#reached);
    this.#startedAt = performance.now();
  }

  /** Without timers, sockets and the like nothing can wake a test that waits: it would wait until Jest ends it. */
  #lookAt(test: Test): void {
    let idle = 0;
    clearInterval(this.#watch);
    this.#watch = setInterval(() => {
      // One is Jest's own timer for the test.
      idle = process.getActiveResourcesInfo().filter(mayWake).length <= 1 ? idle + 1 : 0;
      if (idle < LOOKS) return;
      clearInterval(this.#watch);
      this.#shared.onStuck({ name: nameOf(test), at: this.#at(test) });
    }, LOOK_MS);
    this.#watch.unref();
  }

  #done(test: Test): void {
    const { observed } = this.#shared;
    if (test.mode === 'skip' || test.mode === 'todo') return;
    const at = this.#at(test);
    const name = nameOf(test);
    observed.tests.push({ name, at, ms: performance.now() - this.#startedAt });
    const [error] = test.errors;
    if (error === undefined) return;
    observed.failed ??= { name, at, why: String(Array.isArray(error) ? error[0] : error) };
    for (const other of this.#order.keys()) other.mode = 'skip';
  }

  #at(test: Test): number {
    return this.#order.get(test) ?? -1;
  }
}

/** The pipes are those of the process itself. */
function mayWake(resource: string): boolean {
  return resource !== 'PipeWrap' && resource !== 'TTYWrap';
}

function nameOf(test: Test): string {
  const words = [test.name];
  for (let block = test.parent; block.parent !== undefined; block = block.parent) words.unshift(block.name);
  return words.join(' ');
}

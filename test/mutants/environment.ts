import { TestEnvironment as NodeEnvironment } from 'jest-environment-node';
import { QUESTION } from './instrument.js';
import { ones, type Pair, type Shared, STUCK, shared } from './order.js';

/** The parts of the events and the state of Jest's runner that are used here. */
interface Block {
  readonly type: 'describeBlock';
  readonly name: string;
  readonly parent?: Block;
  readonly children: (Block | Test)[];
}
interface Test {
  readonly type: 'test';
  readonly name: string;
  readonly parent: Block;
  readonly errors: readonly unknown[];
  fn?: TestFunction;
  mode?: 'skip' | 'only' | 'todo' | 'concurrent' | null;
}
type TestFunction = (this: unknown) => unknown;
interface State {
  readonly rootDescribeBlock: Block;
}
type Event =
  | { readonly name: 'run_start' }
  | {
      readonly name: 'test_start' | 'test_fn_start' | 'test_fn_success' | 'test_fn_failure' | 'test_done';
      readonly test: Test;
    };

/** One run of a test. */
interface Run extends Pair {
  readonly pair: number;
  /** Whether this is the control after a pair: the test runs without the mutant, and must pass. */
  readonly control: boolean;
}

/**
 * The interval at which a waiting test is checked, and the number of checks in a row that must find nothing that could wake
 * it.
 */
const LOOK_MS = 20;
const LOOKS = 10;

/**
 * Jest's environment for Node, in which instrumented code asks which mutant is active. It runs each test of a file once for
 * each requested mutant, until that mutant is killed, and notes which mutants are reached.
 */
export default class MutantEnvironment extends NodeEnvironment {
  readonly #shared: Shared = shared();
  readonly #runs = new Map<Test, Run>();
  readonly #killed = new Set<number | undefined>();
  #mutant: number | undefined = this.#shared.order.whileLoading;
  #reached: Uint8Array = this.#shared.outside;
  #failedPair = -1;
  #startedAt = 0;
  #watch: NodeJS.Timeout | undefined;
  /** Makes the running test fail. */
  #fail: (error: Error) => void = () => {};

  override async setup(): Promise<void> {
    await super.setup();
    const question = (number: number): boolean => {
      this.#reached[number] = 1;
      return number === this.#mutant;
    };
    (this.global as unknown as Record<string, unknown>)[QUESTION] = question;
  }

  override async teardown(): Promise<void> {
    clearInterval(this.#watch);
    await super.teardown();
  }

  handleTestEvent(event: Event, state: State): void {
    if (event.name === 'run_start') this.#arrange(state.rootDescribeBlock);
    else if (event.name === 'test_start') this.#start(event.test);
    else if (event.name === 'test_fn_start') this.#watchOver();
    else if (event.name === 'test_fn_success' || event.name === 'test_fn_failure') clearInterval(this.#watch);
    else if (event.name === 'test_done') this.#end(event.test);
  }

  /** Replaces each test by one copy for each pair with this test, and puts a control after each copy. */
  #arrange(root: Block): void {
    const { pairs, whileLoading } = this.#shared.order;
    const copies = new Map<number, [number, Pair][]>();
    for (const entry of (pairs ?? []).entries()) copies.set(entry[1].at, [...(copies.get(entry[1].at) ?? []), entry]);
    let at = -1;
    const visit = (block: Block): void => {
      for (const child of block.children.splice(0)) {
        if (child.type === 'describeBlock') {
          block.children.push(child);
          visit(child);
          continue;
        }
        at++;
        if (pairs === undefined) {
          if (child.fn !== undefined) child.fn = this.#endable(child.fn);
          block.children.push(child);
          this.#runs.set(child, { at, mutant: undefined, pair: at, control: false });
          continue;
        }
        for (const [pair, { mutant }] of copies.get(at) ?? []) {
          this.#copy(child, { at, mutant, pair, control: false });
          if (whileLoading === undefined) this.#copy(child, { at, mutant, pair, control: true });
        }
      }
    };
    visit(root);
  }

  #copy(test: Test, run: Run): void {
    const copy = {
      ...test,
      ...(test.fn && { fn: this.#endable(test.fn) }),
      errors: [],
      retryReasons: [],
      unhandledRejectionErrorByPromise: new Map(),
    };
    test.parent.children.push(copy);
    this.#runs.set(copy, run);
  }

  #start(test: Test): void {
    const run = this.#runs.get(test);
    if (run === undefined || test.mode === 'skip' || test.mode === 'todo') return;
    const { pair, mutant, control } = run;
    if (control ? this.#failedPair !== pair : this.#killed.has(mutant)) {
      test.mode = 'skip';
      return;
    }
    const { order, answer } = this.#shared;
    this.#mutant = control ? undefined : (order.whileLoading ?? mutant);
    this.#reached = new Uint8Array(order.mutants);
    this.#startedAt = performance.now();
    if (!control) answer({ kind: 'started', pair });
  }

  /**
   * Makes a test fail that waits although there are no timers, sockets and the like that could wake it. Otherwise it would
   * wait until Jest ends it.
   */
  #watchOver(): void {
    let idle = 0;
    clearInterval(this.#watch);
    this.#watch = setInterval(() => {
      // One of the resources is Jest's own timer for the test.
      idle = process.getActiveResourcesInfo().filter(mayWake).length <= 1 ? idle + 1 : 0;
      if (idle < LOOKS) return;
      clearInterval(this.#watch);
      this.#fail(new Error(STUCK));
    }, LOOK_MS);
    this.#watch.unref();
  }

  /** The test, wrapped so that `#fail` can end it. */
  #endable(test: TestFunction): TestFunction {
    const onStart = (fail: (error: Error) => void): void => {
      this.#fail = fail;
    };
    return function () {
      const given = new Promise((_, reject) => onStart(reject));
      const result = test.call(this);
      return typeof (result as Promise<unknown> | undefined)?.then === 'function'
        ? Promise.race([result, given])
        : result;
    };
  }

  #end(test: Test): void {
    const run = this.#runs.get(test);
    if (run === undefined || test.mode === 'skip' || test.mode === 'todo') return;
    const { pair, mutant, control } = run;
    const { order, answer, outside } = this.#shared;
    const reached = order.pairs === undefined ? ones(this.#reached) : [];
    this.#mutant = order.whileLoading;
    this.#reached = outside;
    const [error] = test.errors;
    if (control) {
      if (error !== undefined) answer({ kind: 'spoilt', pair });
      return;
    }
    const ms = performance.now() - this.#startedAt;
    answer({
      kind: 'ended',
      pair,
      name: nameOf(test),
      ms,
      error: error === undefined ? undefined : inWords(error),
      reached,
    });
    if (error === undefined || order.pairs === undefined) return;
    this.#killed.add(mutant);
    this.#failedPair = pair;
  }
}

/** Whether a resource can wake a test. The pipes belong to the process itself. */
function mayWake(resource: string): boolean {
  return resource !== 'PipeWrap' && resource !== 'TTYWrap';
}

function inWords(error: unknown): string {
  const [first, second] = Array.isArray(error) ? error : [error];
  return String(first ?? second);
}

function nameOf(test: Test): string {
  const words = [test.name];
  for (let block = test.parent; block.parent !== undefined; block = block.parent) words.unshift(block.name);
  return words.join(' ');
}

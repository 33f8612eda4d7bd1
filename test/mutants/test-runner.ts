import { type ChildProcess, fork } from 'node:child_process';
import { readFileSync } from 'node:fs';
import type { Answer, Order } from './test-process.js';

/** A process is replaced after this many runs, since Jest keeps some memory of each. */
const LONGEST_LIFE = 60;

/** The longest that a run may take on its own processor, in milliseconds: that of the tests without a mutant, times this, and more. */
const SLOWER = 5;
const MORE_MS = 3000;

/** After this many milliseconds Jest ends a test that waits for a timer of the machine's clock. Such tests take milliseconds. */
const TEST_TIMEOUT_MS = 10_000;

/** How often the processor time of a run is looked at. */
const LOOK_MS = 250;

/** Runs test files on mutants, in a process that it replaces when a mutant has spoilt it. */
export class TestRunner {
  readonly #root: string;
  #child: ChildProcess | undefined;
  #runs = 0;

  /** `root` is the folder of the copy. */
  constructor(root: string) {
    this.#root = root;
  }

  /**
   * Runs one file. `expectedMs` is what its tests take without a mutant. Time is processor time: another program on the machine
   * fails no test.
   */
  async run(order: Omit<Order, 'root' | 'testTimeout'>, expectedMs: number): Promise<Answer> {
    const child = this.#child ?? this.#start();
    const limitMs = MORE_MS + SLOWER * expectedMs;
    const startedAt = processorMs(child);
    const watch = setInterval(() => {
      if (processorMs(child) - startedAt > limitMs) child.kill('SIGKILL');
    }, LOOK_MS);
    child.send({ ...order, root: this.#root, testTimeout: TEST_TIMEOUT_MS } satisfies Order);
    const answer = await answerOf(child);
    clearInterval(watch);
    if (answer === undefined) {
      this.#child = undefined;
      return {
        tests: [],
        reached: [],
        whileLoading: [],
        failed: { name: 'a test', at: -1, why: TOO_LONG },
        dirty: true,
      };
    }
    this.#runs++;
    if (answer.dirty || this.#runs >= LONGEST_LIFE) this.close();
    return answer;
  }

  close(): void {
    this.#child?.kill('SIGKILL');
    this.#child = undefined;
  }

  #start(): ChildProcess {
    const program = new URL('test-process.js', import.meta.url);
    const child = fork(program, {
      execArgv: ['--experimental-vm-modules', '--no-warnings'],
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
      env: { ...process.env, NODE_ENV: 'test' },
    });
    this.#child = child;
    this.#runs = 0;
    return child;
  }
}

/** The next answer of a process; `undefined` when it ends without one. */
function answerOf(child: ChildProcess): Promise<Answer | undefined> {
  return new Promise((resolve) => {
    const settle = (answer: Answer | undefined): void => {
      child.off('message', onMessage);
      child.off('exit', onExit);
      resolve(answer);
    };
    const onMessage = (message: unknown): void => settle(message as Answer);
    const onExit = (): void => settle(undefined);
    child.on('message', onMessage);
    child.on('exit', onExit);
  });
}

const TOO_LONG = 'it came to no end, or ended the process';

/** The processor time of a process so far, in milliseconds: fields 14 and 15 of /proc/PID/stat (proc(5)), in ticks of 10 ms. */
function processorMs({ pid }: ChildProcess): number {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
      .replace(/^.*\) /, '')
      .split(' ');
    return 10 * (Number(fields[11]) + Number(fields[12]));
  } catch {
    return 0;
  }
}

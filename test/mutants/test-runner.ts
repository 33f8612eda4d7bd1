import { type ChildProcess, fork } from 'node:child_process';
import { readFileSync } from 'node:fs';
import type { Answer, Order } from './order.js';

export type Ended = Extract<Answer, { kind: 'ended' }>;

/** How a run ended. `lost`: a test did not end, or ended the process. */
export type Outcome = Extract<Answer, { kind: 'done' | 'spoilt' }> | { readonly kind: 'lost'; readonly pair: number };

/** A process is replaced after this many runs, since Jest keeps some memory of each. */
const LONGEST_LIFE = 60;

/** A test may take this much more processor time than expected. Milliseconds. */
const MORE_MS = 3000;

/** The interval at which the processor time of a run is checked. */
const LOOK_MS = 250;

/** Runs test files on mutants, in a process that it replaces after a mutant has had a lasting effect on it. */
export class TestRunner {
  readonly #root: string;
  #child: ChildProcess | undefined;
  #runs = 0;

  /** `root` is the folder of the copy. */
  constructor(root: string) {
    this.#root = root;
  }

  /**
   * Runs one file; `onEnded` is called after each test. `expectedMs` returns the time that the pair with this number may take; -1 is the
   * loading of the file. Times are processor times, so that other programs on the machine cannot make a mutant fail.
   */
  async run(
    order: Omit<Order, 'root'>,
    expectedMs: (pair: number) => number,
    onEnded: (ended: Ended) => void,
  ): Promise<Outcome> {
    const child = this.#child ?? this.#start();
    let pair = -1;
    let startedAt = processorMs(child);
    const watch = setInterval(() => {
      if (processorMs(child) - startedAt > expectedMs(pair) + MORE_MS) child.kill('SIGKILL');
    }, LOOK_MS);
    const outcome = await new Promise<Outcome>((resolve) => {
      const onMessage = (message: unknown): void => {
        const answer = message as Answer;
        if (answer.kind === 'started') {
          pair = answer.pair;
          startedAt = processorMs(child);
        } else if (answer.kind === 'ended') onEnded(answer);
        else settle(answer);
      };
      const onExit = (): void => settle({ kind: 'lost', pair });
      const settle = (end: Outcome): void => {
        child.off('message', onMessage);
        child.off('exit', onExit);
        resolve(end);
      };
      child.on('message', onMessage);
      child.on('exit', onExit);
      child.send({ ...order, root: this.#root } satisfies Order);
    });
    clearInterval(watch);
    this.#runs++;
    if (outcome.kind !== 'done' || outcome.dirty || this.#runs >= LONGEST_LIFE) this.close();
    return outcome;
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

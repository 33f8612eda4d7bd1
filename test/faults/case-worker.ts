import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { WHOLE_NAMES } from './all-cases.js';
import type { CaseOrder, CaseReport, CaseResult } from './case-messages.js';

const PROGRAM = fileURLToPath(new URL('./case-process.js', import.meta.url));

/** A worker that takes longer over a case hangs. No case takes that long, even on a slow, busy machine. */
const HANGS_MS = 300_000;
/** The same for a case of hundreds of migrations. */
const WHOLE_HANGS_MS = 1_200_000;

type Report<R extends CaseReport['report']> = Extract<CaseReport, { readonly report: R }>;

/** A worker process, as its parent controls it. */
export class CaseWorker {
  readonly #child: ChildProcess;
  #gone: string | undefined;
  #waiting: { readonly report: string; resolve(report: CaseReport): void; reject(error: Error): void } | undefined;

  private constructor() {
    this.#child = fork(PROGRAM, { execArgv: ['--expose-gc'], stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
    this.#child.on('message', (report: CaseReport) => {
      const waiting = this.#waiting;
      if (waiting?.report !== report.report) return;
      this.#waiting = undefined;
      waiting.resolve(report);
    });
    this.#child.on('error', (error) => this.#end(error.message));
    this.#child.on('exit', (status, signal) => this.#end(signal ?? `exit status ${status}`));
  }

  /** Starts a worker. Resolves when its guest runs and its first migrations are done. Rejects if the process fails before. */
  static async start(): Promise<{ readonly worker: CaseWorker; readonly ready: Report<'ready'> }> {
    const worker = new CaseWorker();
    return { worker, ready: await worker.#hear('ready') };
  }

  /** Runs a case. Never rejects: if the process dies or hangs, the result has a problem. */
  async run(name: string, seed: number): Promise<CaseResult> {
    try {
      const hangsMs = WHOLE_NAMES.some((whole) => whole === name) ? WHOLE_HANGS_MS : HANGS_MS;
      return (await this.#ask({ order: 'run', name, seed }, 'done', hangsMs)).result;
    } catch (error) {
      return { struck: true, ending: 'no result', problems: [error instanceof Error ? error.message : String(error)] };
    }
  }

  /** Ends the process. Resolves with the resources that it held at its start and holds at its end. */
  end(): Promise<Report<'ended'>> {
    return this.#ask({ order: 'end' }, 'ended');
  }

  /** Kills the process. */
  kill(): void {
    this.#child.kill('SIGKILL');
  }

  #ask<R extends CaseReport['report']>(order: CaseOrder, report: R, hangsMs = HANGS_MS): Promise<Report<R>> {
    const heard = this.#hear(report, hangsMs);
    if (this.#child.connected) this.#child.send(order, () => {});
    return heard;
  }

  async #hear<R extends CaseReport['report']>(report: R, hangsMs = HANGS_MS): Promise<Report<R>> {
    let timer: NodeJS.Timeout | undefined;
    try {
      return await new Promise<Report<R>>((resolve, reject) => {
        if (this.#gone !== undefined) reject(new Error(this.#gone));
        this.#waiting = { report, resolve: (heard) => resolve(heard as Report<R>), reject };
        timer = setTimeout(() => {
          reject(new Error(`the process has said nothing for ${hangsMs / 1000} s`));
          this.kill();
        }, hangsMs);
      });
    } finally {
      clearTimeout(timer);
    }
  }

  #end(how: string): void {
    this.#gone ??= `the process that ran it ended: ${how}`;
    this.#waiting?.reject(new Error(this.#gone));
  }
}

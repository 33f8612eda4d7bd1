import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { WHOLE_NAMES } from './all-cases.js';
import type { CaseOrder, CaseReport, CaseResult } from './case-messages.js';

const PROGRAM = fileURLToPath(new URL('./case-process.js', import.meta.url));

/** Longer than any case takes, on a slow machine and with others beside it: beyond it the process hangs. */
const HANGS_MS = 300_000;
/** The same for a case that is hundreds of migrations. */
const WHOLE_HANGS_MS = 1_200_000;

type Report<R extends CaseReport['report']> = Extract<CaseReport, { readonly report: R }>;

/** A process that runs cases, seen from the one that shares them out. */
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

  /** Resolves when its guest runs and the process is warm. Rejects when the process does not get that far. */
  static async start(): Promise<{ readonly worker: CaseWorker; readonly ready: Report<'ready'> }> {
    const worker = new CaseWorker();
    return { worker, ready: await worker.#hear('ready') };
  }

  /** Never rejects: a process that dies or hangs is a problem of the case that it ran. */
  async run(name: string, seed: number): Promise<CaseResult> {
    try {
      const hangsMs = WHOLE_NAMES.some((whole) => whole === name) ? WHOLE_HANGS_MS : HANGS_MS;
      return (await this.#ask({ order: 'run', name, seed }, 'done', hangsMs)).result;
    } catch (error) {
      return { struck: true, ending: 'no result', problems: [error instanceof Error ? error.message : String(error)] };
    }
  }

  /** Ends it, and resolves with what it held at its start and holds at its end. */
  end(): Promise<Report<'ended'>> {
    return this.#ask({ order: 'end' }, 'ended');
  }

  /** Ends it at once. */
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

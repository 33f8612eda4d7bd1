import type { CaseQueue } from './case-queue.js';
import { CaseWorker } from './case-worker.js';
import type { FaultReport } from './fault-report.js';

interface WorkOptions {
  readonly seed: number;
  /** Number of cases at a time. */
  readonly parallel: number;
  readonly report: FaultReport;
  /** A worker that has been started. */
  readonly first: CaseWorker;
}

/** Starts a worker. Resolves with `undefined`, after reporting why, if a migration without a fault fails in it. */
export async function startWorker(report: FaultReport) {
  try {
    const { worker, ready } = await CaseWorker.start();
    report.besides('an uncut migration', ready.problems);
    return { worker, bytes: ready.bytes };
  } catch (error) {
    report.besides('a process for cases did not start', [textOf(error)]);
    return undefined;
  }
}

/** Runs all cases of the queue, `parallel` at a time with a worker each. Resolves when every worker has ended. */
export async function workOff(queue: CaseQueue, { seed, parallel, report, first }: WorkOptions): Promise<void> {
  let more: () => void = () => {};
  let changed: Promise<void>;
  const change = () => {
    more();
    changed = new Promise((resolve) => {
      more = resolve;
    });
  };
  change();

  async function work(started: CaseWorker | undefined): Promise<CaseWorker | undefined> {
    let worker = started;
    while (!queue.over) {
      const one = queue.next();
      if (one === undefined) {
        await changed;
        continue;
      }
      worker ??= (await startWorker(report))?.worker;
      const start = performance.now();
      const result = (await worker?.run(one.name, seed)) ?? {
        struck: false,
        ending: 'not run',
        problems: ['no process to run it'],
      };
      report.case(one.name, result, performance.now() - start);
      queue.settle(one, result);
      for (const end of queue.ended()) report.series(end);
      change();
      // The problem may have damaged the worker's guest: the next case gets a new worker.
      if (result.problems.length > 0) {
        worker?.kill();
        worker = undefined;
      }
    }
    return worker;
  }

  const workers = await Promise.all(Array.from({ length: parallel }, (_, n) => work(n === 0 ? first : undefined)));
  for (const [index, worker] of workers.entries()) {
    if (worker === undefined) continue;
    try {
      const { before, after } = await worker.end();
      report.worker(index + 1, before, after);
    } catch (error) {
      report.besides(`process ${index + 1} did not end`, [textOf(error)]);
    }
  }
}

function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

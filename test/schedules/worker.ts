import { parentPort, workerData } from 'node:worker_threads';
import { runSchedule, unhandled } from './run-schedule.js';
import { SABOTAGES } from './sabotage.js';
import { scheduleOf } from './schedule.js';

/** The seeds that a worker runs, one after the other. */
export interface Share {
  readonly first: number;
  readonly count: number;
  /** Name of a sabotage, or empty. */
  readonly sabotage: string;
  /** The seed that is being run, for the time limit of the main thread. */
  readonly present: Int32Array;
}

/** What a worker posts back. */
export interface Tally {
  readonly count: number;
  readonly endings: ReadonlyMap<string, number>;
  readonly struck: ReadonlyMap<string, number>;
  readonly failures: readonly { readonly seed: number; readonly kind: string; readonly message: string }[];
}

// Stack traces of the thousands of expected errors would take more time than the schedules.
Error.stackTraceLimit = 0;
process.on('unhandledRejection', unhandled);

const { first, count, sabotage, present } = workerData as Share;
const kind = SABOTAGES[sabotage];
const endings = new Map<string, number>();
const struck = new Map<string, number>();
const failures: { seed: number; kind: string; message: string }[] = [];
for (let seed = first; seed < first + count; seed++) {
  Atomics.store(present, 0, seed);
  const outcome = await runSchedule(scheduleOf(seed), kind === undefined ? {} : { sabotage: kind.make() });
  endings.set(outcome.ending, (endings.get(outcome.ending) ?? 0) + 1);
  for (const fault of outcome.struck) struck.set(fault, (struck.get(fault) ?? 0) + 1);
  const [problem] = outcome.problems;
  if (problem !== undefined) failures.push({ seed, kind: problem.kind, message: problem.message });
}
const tally: Tally = { count, endings, struck, failures };
parentPort?.postMessage(tally);

import { setFlagsFromString } from 'node:v8';
import type { Worker } from 'node:worker_threads';

/**
 * The young generation of a thread for which a vCPU waits: MiB of a semi-space. Each time it is full the thread stands for 0.2 ms, and for
 * milliseconds where the processors are busy, since V8 shares the collection out among threads. An answer with the pages behind it makes
 * 7 KiB of garbage: 1 MiB, with which V8 usually begins, is full every 140 answers. Memory is only taken as it is written.
 */
const LARGE_MIB = 8;
/** V8 chooses. */
const USUAL = 0;

/** Threads that are starting with a large young generation. */
let starting = 0;

/**
 * Starts a thread whose young generation is large from the beginning. Options of `Worker` can only limit it, so that a flag of V8 is set
 * until the thread has started; a thread that somebody else starts meanwhile has it too, and is only larger for that. Where the process was
 * started with this flag itself, nothing changes.
 */
export function withLargeYoungGeneration(start: () => Worker): Worker {
  if (process.execArgv.some((option) => /^--(min|max)[-_]semi[-_]space[-_]size/.test(option))) return start();
  if (starting++ === 0) setFlagsFromString(`--min-semi-space-size=${LARGE_MIB}`);
  let over = false;
  const end = (): void => {
    if (over) return;
    over = true;
    if (--starting === 0) setFlagsFromString(`--min-semi-space-size=${USUAL}`);
  };
  try {
    const worker = start();
    worker.once('online', end);
    worker.once('exit', end);
    return worker;
  } catch (error) {
    end();
    throw error;
  }
}

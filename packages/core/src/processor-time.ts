/** How a thread has spent the time in which it had something to do. Milliseconds since an arbitrary origin. */
export interface ProcessorTime {
  /** On a processor. */
  readonly ranMs: number;
  /** Ready to run, without a processor. */
  readonly waitedMs: number;
}

/** The processor time of threads that do the same work at the same time, all together. */
export interface ThreadsTime extends ProcessorTime {
  readonly threads: number;
}

/** The part of Node's `process` by which this package finds the file system; it is not there in other environments. */
interface BuiltinModules {
  getBuiltinModule?(name: string): { readFileSync(path: string, encoding: 'utf8'): string } | undefined;
}

/** Linux writes three numbers: nanoseconds on a processor, nanoseconds of waiting for one, and how often the thread was run. */
const STATISTICS = '/proc/thread-self/schedstat';

/**
 * The processor time of the calling thread since it was started. `undefined` where that is not known: outside of Linux, on a kernel
 * without `CONFIG_SCHED_INFO`, before Node 20.16. It takes some 10 us.
 */
export function processorTime(): ProcessorTime | undefined {
  const { process } = globalThis as { readonly process?: BuiltinModules };
  try {
    const text = process?.getBuiltinModule?.('node:fs')?.readFileSync(STATISTICS, 'utf8') ?? '';
    const [ran, waited] = text.split(' ').map((ns) => Number(ns) / 1e6);
    return ran !== undefined && waited !== undefined && ran >= 0 && waited >= 0
      ? { ranMs: ran, waitedMs: waited }
      : undefined;
  } catch {
    return undefined;
  }
}

/** The time of a single thread since `before`. */
export function processorTimeSince(before: ProcessorTime, now: ProcessorTime): ThreadsTime {
  return { threads: 1, ranMs: now.ranMs - before.ranMs, waitedMs: now.waitedMs - before.waitedMs };
}

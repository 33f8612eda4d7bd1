import { readdirSync } from 'node:fs';
import { setImmediate as turn } from 'node:timers/promises';

/** What this process holds: to see that nothing is left behind. */
export interface Leftovers {
  readonly fileDescriptors: number;
  /** Sockets, servers, timers and so on that keep the process alive. */
  readonly handles: number;
  /** Threads of the process, those of Node's own pool included. */
  readonly threads: number;
  readonly residentBytes: number;
  /** What lives in V8's heap. */
  readonly heapBytes: number;
}

export async function leftovers(): Promise<Leftovers> {
  // What a garbage collection frees, and what frees itself in the turns after it, is not held.
  for (let i = 0; i < 3; i++) {
    globalThis.gc?.();
    await turn();
  }
  return {
    fileDescriptors: readdirSync('/proc/self/fd').length,
    handles: process.getActiveResourcesInfo().length,
    threads: readdirSync('/proc/self/task').length,
    residentBytes: process.memoryUsage.rss(),
    heapBytes: process.memoryUsage().heapUsed,
  };
}

export function describeLeftovers(left: Leftovers): string {
  const mib = (bytes: number) => `${(bytes / 2 ** 20).toFixed(0)} MiB`;
  return (
    `${left.fileDescriptors} file descriptors, ${left.handles} handles, ${left.threads} threads, ` +
    `${mib(left.residentBytes)} resident, ${mib(left.heapBytes)} of heap`
  );
}

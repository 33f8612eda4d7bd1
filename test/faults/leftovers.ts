import { readdirSync } from 'node:fs';
import { setImmediate as turn } from 'node:timers/promises';

/** Resources that this process holds: to see that nothing is left behind. */
export interface Leftovers {
  readonly fileDescriptors: number;
  /** Sockets, servers, timers and so on that keep the process alive. */
  readonly handles: number;
  /** Threads of the process, those of Node's own pool included. */
  readonly threads: number;
  readonly residentBytes: number;
  /** Objects in V8's heap that live. */
  readonly heapBytes: number;
}

export async function leftovers(): Promise<Leftovers> {
  // A collection, and the turns after it, free things that are not held any more.
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

/** Sockets and threads are let go of a little after the promises have settled. */
export async function settledLeftovers(before: Leftovers): Promise<Leftovers> {
  for (let attempt = 0; ; attempt++) {
    const now = await leftovers();
    if (growth(before, now).length === 0 || attempt === 50) return now;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

/** Resources of which there are more than before. Memory is not among them: a heap grows as it likes. */
export function growth(before: Leftovers, after: Leftovers): string[] {
  return (['fileDescriptors', 'handles', 'threads'] as const)
    .filter((what) => after[what] > before[what])
    .map((what) => `${what} grew from ${before[what]} to ${after[what]}`);
}

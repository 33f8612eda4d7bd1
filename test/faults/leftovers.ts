import { readdirSync, readlinkSync } from 'node:fs';
import { setImmediate as turn } from 'node:timers/promises';

/** Resources that this process holds, to find those that are not released. */
export interface Leftovers {
  readonly fileDescriptors: number;
  /** How many of them there are of each kind: `socket`, `anon_inode:[userfaultfd]`, the path of a file. */
  readonly kinds: Readonly<Record<string, number>>;
  /** Number of sockets, servers, timers and so on that keep the process alive. */
  readonly handles: number;
  /** Number of threads, with those of Node's own pool. */
  readonly threads: number;
  readonly residentBytes: number;
  /** Bytes of live objects in V8's heap. */
  readonly heapBytes: number;
}

export async function leftovers(): Promise<Leftovers> {
  // A garbage collection and the turns of the event loop after it free what is not referenced.
  for (let i = 0; i < 3; i++) {
    globalThis.gc?.();
    await turn();
  }
  return {
    fileDescriptors: readdirSync('/proc/self/fd').length,
    kinds: kindsOfDescriptors(),
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

/** Waits until the resources are as before, for a while: sockets and threads end a little after the promises settle. */
export async function settledLeftovers(before: Leftovers): Promise<Leftovers> {
  for (let attempt = 0; ; attempt++) {
    const now = await leftovers();
    if (growth(before, now).length === 0 || attempt === 50) return now;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

/** Describes the resources of which there are more than before. Memory is left out: the heap's size varies. */
export function growth(before: Leftovers, after: Leftovers): string[] {
  return (['fileDescriptors', 'handles', 'threads'] as const)
    .filter((what) => after[what] > before[what])
    .map(
      (what) =>
        `${what} grew from ${before[what]} to ${after[what]}${what === 'fileDescriptors' ? moreOf(before, after) : ''}`,
    );
}

function kindsOfDescriptors(): Record<string, number> {
  const kinds: Record<string, number> = {};
  for (const fd of readdirSync('/proc/self/fd')) {
    try {
      // `socket:[4711]`, `/memfd:guest (deleted)`: what is not the same for two of a kind is left out.
      const kind = readlinkSync(`/proc/self/fd/${fd}`).replace(/:\[\d+\]$/, '');
      kinds[kind] = (kinds[kind] ?? 0) + 1;
    } catch {
      // The one that the folder was read with.
    }
  }
  return kinds;
}

function moreOf(before: Leftovers, after: Leftovers): string {
  const more = Object.entries(after.kinds).flatMap(([kind, count]) => {
    const added = count - (before.kinds[kind] ?? 0);
    return added > 0 ? [`${added} ${kind}`] : [];
  });
  return `: ${more.join(', ')}`;
}

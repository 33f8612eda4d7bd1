import type { WorkerOptions } from 'node:worker_threads';
import { provideModule } from '@godwit/core/pages';
import * as rearm from '@godwit/linux/unstable/rearm';
import * as snapshotPages from '@godwit/transport/snapshot-pages';

/*
 * Each thread of this package is built into one file of `threads`, with the modules that it needs: Node loads it in a third of the time of
 * a hundred files. Recipes that are made on the main thread name some of those modules by their URLs there.
 */

/** The URLs, on the main thread, of modules that are bundled in the threads' files. */
export interface ThreadModules {
  readonly rearm: string;
  readonly snapshotPages: string;
  readonly snapshotTarget: string;
}

export type ThreadName = 'channel-thread' | 'service-thread' | 'protect-thread';

/**
 * The limit of a thread's heap, in MiB. V8 counts each view of guest memory as memory of the heap, and collects all garbage, before it
 * returns the view, whenever views of half this limit were made since the last time: with its default limit, for each 1 to 2 GiB of guest
 * memory, while no page moves. Half of 64 TiB is more than a host has.
 */
const MOST_HEAP_MIB = 2 ** 26;

/** The file of a thread, and its options, with the data that `provideModules` takes there. */
export function threadFile(name: ThreadName): readonly [URL, WorkerOptions & { readonly workerData: ThreadModules }] {
  const modules = {
    rearm: rearm.kvmRearmModule,
    snapshotPages: snapshotPages.SNAPSHOT_PAGES.module,
    snapshotTarget: snapshotPages.SNAPSHOT_TARGET.module,
  };
  return [
    new URL(`../threads/${name}.js`, import.meta.url),
    { workerData: modules, resourceLimits: { maxOldGenerationSizeMb: MOST_HEAP_MIB } },
  ];
}

/** Called on a thread: registers the modules in its file, so that recipes find them. */
export function provideModules(modules: ThreadModules): void {
  provideModule(modules.rearm, rearm);
  provideModule(modules.snapshotPages, snapshotPages);
  provideModule(modules.snapshotTarget, snapshotPages);
}

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

/** The file of a thread, and the options whose data `provideModules` takes there. */
export function threadFile(name: ThreadName): readonly [URL, WorkerOptions & { readonly workerData: ThreadModules }] {
  const modules = {
    rearm: rearm.kvmRearmModule,
    snapshotPages: snapshotPages.SNAPSHOT_PAGES.module,
    snapshotTarget: snapshotPages.SNAPSHOT_TARGET.module,
  };
  return [new URL(`../threads/${name}.js`, import.meta.url), { workerData: modules }];
}

/** Called on a thread: registers the modules in its file, so that recipes find them. */
export function provideModules(modules: ThreadModules): void {
  provideModule(modules.rearm, rearm);
  provideModule(modules.snapshotPages, snapshotPages);
  provideModule(modules.snapshotTarget, snapshotPages);
}

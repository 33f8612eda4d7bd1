import { Worker } from 'node:worker_threads';
import type { Share, Tally } from './worker.js';

/** A worker's life: what dead processes of many schedules have left in the engine's own tables goes with it. */
const SHARE = 500;

/** A schedule takes milliseconds; one that takes so long does not end. */
const STUCK_MS = 60_000;

export interface Total {
  count: number;
  readonly endings: Map<string, number>;
  readonly struck: Map<string, number>;
  readonly failures: { readonly seed: number; readonly kind: string; readonly message: string }[];
}

export interface ManyOptions {
  readonly first: number;
  readonly count: number;
  readonly parallel: number;
  readonly sabotage: string;
  readonly onProgress: (total: Total) => void;
}

/** Runs `count` schedules from the seed `first` on, `parallel` at a time, each on a thread of its own. */
export async function runMany({ first, count, parallel, sabotage, onProgress }: ManyOptions): Promise<Total> {
  const total: Total = { count: 0, endings: new Map(), struck: new Map(), failures: [] };
  let next = first;
  const end = first + count;
  const one = async (): Promise<void> => {
    while (next < end) {
      const share = { first: next, count: Math.min(SHARE, end - next), sabotage };
      next += share.count;
      add(total, await runShare(share));
      onProgress(total);
    }
  };
  await Promise.all(Array.from({ length: parallel }, one));
  total.failures.sort((a, b) => a.seed - b.seed);
  return total;
}

function runShare(share: Omit<Share, 'present'>): Promise<Tally> {
  const present = new Int32Array(new SharedArrayBuffer(4));
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL('./worker.js', import.meta.url), { workerData: { ...share, present } });
    let seen = -1;
    const watch = setInterval(() => {
      const seed = Atomics.load(present, 0);
      if (seed === seen) {
        clearInterval(watch);
        void worker.terminate();
        reject(new Error(`seed ${seed} does not end: it has run for more than ${STUCK_MS / 1000} s`));
      }
      seen = seed;
    }, STUCK_MS);
    worker.once('message', (tally: Tally) => {
      clearInterval(watch);
      resolve(tally);
      // Nothing of it is needed any more, whatever its abandoned migrations still wait for.
      void worker.terminate();
    });
    worker.once('error', (error) => {
      clearInterval(watch);
      reject(new Error(`seed ${Atomics.load(present, 0)}: ${error.message}`, { cause: error }));
    });
  });
}

function add(total: Total, tally: Tally): void {
  total.count += tally.count;
  for (const [ending, n] of tally.endings) total.endings.set(ending, (total.endings.get(ending) ?? 0) + n);
  for (const [fault, n] of tally.struck) total.struck.set(fault, (total.struck.get(fault) ?? 0) + n);
  total.failures.push(...tally.failures);
}

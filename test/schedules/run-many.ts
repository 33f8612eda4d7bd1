import { Worker } from 'node:worker_threads';
import type { Share, Tally } from './worker.js';

/** Number of schedules that a worker runs. A new worker frees what dead processes have left in the engine's tables. */
const SHARE = 500;

/** A schedule takes milliseconds of real time; one that takes this long counts as endless. */
const STUCK_MS = 60_000;

interface Failure {
  readonly seed: number;
  readonly kind: string;
  readonly message: string;
}

export interface Total {
  count: number;
  readonly endings: Map<string, number>;
  readonly struck: Map<string, number>;
  readonly failures: Failure[];
}

export interface ManyOptions {
  readonly first: number;
  readonly count: number;
  readonly parallel: number;
  readonly sabotage: string;
  readonly onProgress: (total: Total) => void;
}

/** Runs `count` schedules from the seed `first` on, with `parallel` worker threads. */
export async function runMany({ first, count, parallel, sabotage, onProgress }: ManyOptions): Promise<Total> {
  const total: Total = { count: 0, endings: new Map(), struck: new Map(), failures: [] };
  const shares: { readonly first: number; readonly count: number }[] = [];
  for (let at = first; at < first + count; at += SHARE) {
    shares.push({ first: at, count: Math.min(SHARE, first + count - at) });
  }
  const one = async (): Promise<void> => {
    for (let share = shares.shift(); share !== undefined; share = shares.shift()) {
      const done = await runShare({ ...share, sabotage });
      if ('seed' in done) {
        // The other seeds of the share are run again without the failed one.
        const { first: from, count: many } = share;
        shares.unshift({ first: done.seed + 1, count: from + many - done.seed - 1 });
        if (done.seed > from) shares.unshift({ first: from, count: done.seed - from });
        total.count++;
        total.failures.push(done);
      } else {
        add(total, done);
      }
      onProgress(total);
    }
  };
  await Promise.all(Array.from({ length: parallel }, one));
  total.failures.sort((a, b) => a.seed - b.seed);
  return total;
}

/** Runs a share in a worker. If a seed ends its thread or never ends, resolves with the failure of that seed alone. */
function runShare(share: Omit<Share, 'present'>): Promise<Tally | Failure> {
  const present = new Int32Array(new SharedArrayBuffer(4));
  return new Promise((resolve) => {
    const worker = new Worker(new URL('./worker.js', import.meta.url), { workerData: { ...share, present } });
    let seen = -1;
    const watch = setInterval(() => {
      const seed = Atomics.load(present, 0);
      if (seed === seen) {
        clearInterval(watch);
        void worker.terminate();
        resolve({ seed, kind: 'stuck', message: `it has run for more than ${STUCK_MS / 1000} s` });
      }
      seen = seed;
    }, STUCK_MS);
    worker.once('message', (tally: Tally) => {
      clearInterval(watch);
      resolve(tally);
      // The thread is terminated: its abandoned migrations would keep it running.
      void worker.terminate();
    });
    worker.once('error', (error) => {
      clearInterval(watch);
      resolve({ seed: Atomics.load(present, 0), kind: 'crashed', message: error.stack ?? error.message });
    });
  });
}

function add(total: Total, tally: Tally): void {
  total.count += tally.count;
  for (const [ending, n] of tally.endings) total.endings.set(ending, (total.endings.get(ending) ?? 0) + n);
  for (const [fault, n] of tally.struck) total.struck.set(fault, (total.struck.get(fault) ?? 0) + n);
  total.failures.push(...tally.failures);
}
